"""The table of methods in docs/methods/index.md: it has them all, the families that they apply to, and their caches."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Set
from pathlib import Path

import pytest

from eyas.commands.methods import facts, method_class
from eyas.commands.names import METHODS
from eyas.distillation.trials import noise_batch, try_methods
from helpers import families

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods" / "index.md"
GROUPS: dict[str, Set[str]] = {
    "any": {*families.FAMILIES},
    "torchvision": families.TORCHVISION.keys(),
    "YOLO": families.LIBREYOLO.keys(),
    "DETRs": families.TRANSFORMERS.keys(),
    "DETRs but YOLOS": families.TRANSFORMERS.keys() - {"YOLOS"},
    "DEIMv2": {name for name in families.TRANSFORMERS if name.startswith("DEIMv2")},
}
"""Word of the column of families -> the families that it stands for; other words are a family each."""


def table() -> dict[str, dict[str, str]]:
    """Method -> column -> cell."""
    text = PAGE.read_text(encoding="utf-8").split("<!-- methods -->")[1].split("<!-- /methods -->")[0]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.strip().splitlines())
    return {re.sub(r"\[`(\w+)`\].*", r"\1", row[0]): dict(zip(head, row, strict=True)) for row in rows}


def families_of(cell: str) -> set[str]:
    """The families that a cell names for both sides; what stands behind a semicolon is about one side."""
    found: set[str] = set()
    for word in cell.partition(";")[0].split(", "):
        found |= GROUPS.get(word, {word})
    assert found <= {*families.FAMILIES}
    return found


def test_the_table_has_every_method_and_what_a_cache_serves() -> None:
    rows = table()
    assert sorted(rows) == sorted(METHODS)
    assert {name: row["cache"] == "yes" for name, row in rows.items()} == {name: facts(name).cached for name in METHODS}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_pages_that_count_the_methods_count_them_all(page: str) -> None:
    found = re.search(r"\[(\d+) (?:methods|of them)\]", (ROOT / page).read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == len(METHODS)


QUICK = ("SSD", families.SHUFFLEDET, "DETR", "YOLOS", families.OWN)
"""Families whose trial takes less than a second; the others take up to five."""


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in families.FAMILIES]
)
def test_a_method_applies_to_the_families_of_the_table_and_to_no_other(family: str) -> None:
    makers = {name: method_class(name) for name in METHODS}
    student, teacher = families.make(family, 0), families.make(family, 1)
    trials = try_methods(student, teacher, makers, noise_batch(families.SIZE), timed=False)
    named = {name for name, row in table().items() if family in families_of(row["families"])}
    assert {name for name, trial in trials.items() if trial.reason is None} == named


def test_half_of_the_methods_files_are_as_short_as_the_page_says() -> None:
    said = re.search(r"half of them of fewer than (\d+) lines", PAGE.read_text(encoding="utf-8"))
    assert said is not None
    files = [Path(inspect.getfile(method_class(name))) for name in METHODS]
    lines = [sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip()) for file in files]
    assert statistics.median(lines) < int(said.group(1)) <= 90
