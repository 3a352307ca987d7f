"""Writes the tables and sentences of the docs that come from results, each between two marks.

``python results/figures/pages.py``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import field
import weight_rule

import methods
from eyas.commands.names import METHODS

DOCS = Path(__file__).parents[2] / "docs"


class Part(NamedTuple):
    """What stands on a page between ``<!-- mark -->`` and ``<!-- /mark -->``."""

    page: Path
    mark: str
    text: Callable[[], str]

    def write(self) -> None:
        """Put the text of today between the marks."""
        before, _, after = self._split()
        self.page.write_text(f"{before}{self.text()}\n{after}", encoding="utf-8")

    def written(self) -> str:
        """What stands there now."""
        return self._split()[1].removesuffix("\n")

    def _split(self) -> tuple[str, str, str]:
        """The page up to the first mark, between both and from the second one on."""
        start, end = f"<!-- {self.mark} -->\n", f"<!-- /{self.mark} -->"
        before, opened, rest = self.page.read_text(encoding="utf-8").partition(start)
        inner, closed, after = rest.partition(end)
        if not (opened and closed):
            raise SystemExit(f"{self.page}: no part {self.mark!r}")
        return before + opened, inner, closed + after


def parts() -> Iterator[Part]:
    """Every part of every page."""
    pairs, weights = field.read(field.PAIRS), field.read(weight_rule.PAIRS)
    (others,) = field.read(["field_digits_weight"]).values()
    question = DOCS / "questions" / "which_method.md"
    yield Part(question, "gains", lambda: field.gains_table(pairs))
    yield Part(question, "minus fgfi", lambda: field.ahead_table(pairs))
    yield Part(question, "weights", lambda: field.weights_table(pairs["field_digits"], others))
    yield Part(DOCS / "performance.md", "methods", lambda: methods.table(json.loads(methods.FILE.read_text())))
    yield Part(DOCS / "weight.md", "weight fractions", lambda: weight_rule.summary(weights))
    yield Part(DOCS / "weight_rule.md", "weight rule", lambda: weight_rule.table(weights))
    yield Part(DOCS / "weight_rule.md", "weight against numbers", lambda: weight_rule.against_numbers(weights))
    yield Part(DOCS / "weight_rule.md", "weight numbers", weight_rule.weight_table)
    yield Part(DOCS / "weight_rule.md", "weight gradients", weight_rule.gradient_table)
    for name in field.methods(pairs):
        if name in METHODS and name != field.DEFAULT:
            yield Part(DOCS / "methods" / f"{name}.md", "measured", partial(field.measured, pairs, name))


if __name__ == "__main__":
    for part in parts():
        part.write()
