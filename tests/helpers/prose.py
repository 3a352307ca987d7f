"""Finds phrases that no native speaker would write, in code, comments, recipes and pages.

    python tests/helpers/prose.py

It prints ``file:line: phrase: remedy`` and exits with 1 when there are any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEARCHED = ("src", "docs", "tests", "faults", "benchmarks", "results/figures", "*.md")
KINDS = (".py", ".md", ".yaml", ".yml")
GAP = r"[\s#]+"  # a phrase may go on in the next line of a comment
PHRASES = {
    "(is|are|be) told of": "say who reports it",
    "in place of": "instead of",
    "in hand": "current, being done",
    "(comes|came) to": "is, was; reaches",
    "whoever": "name the person or the code",
    "nobody waits": "nothing waits",
    "(says|say|said) of": "about",
    "(?-i:Of)": "begin with the subject",
}
"""Regular expression, a space for any gap, to what to write instead."""
PATTERNS = {re.compile(rf"\b{phrase.replace(' ', GAP)}\b", re.IGNORECASE): remedy for phrase, remedy in PHRASES.items()}


def strange(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and remedy of every phrase to avoid."""
    for pattern, remedy in PATTERNS.items():
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].replace("#", " ").split()), remedy


def pages() -> Iterator[Path]:
    """The files that are searched; this one, which lists the phrases, and its test are not."""
    for place in SEARCHED:
        for path in ROOT.glob(f"{place}/**/*" if "*" not in place else place):
            if path.suffix in KINDS and path.stem not in ("prose", "test_prose"):
                yield path


def main() -> int:
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}: {remedy}"
        for path in sorted(pages())
        for line, phrase, remedy in strange(path.read_text())
    ]
    print("\n".join(lines) or "prose: no phrase to avoid")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
