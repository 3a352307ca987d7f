"""The tables of docs/reliability.md name tests and modules that exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
SOURCES = (ROOT / "src" / "eyas", ROOT / "tests", ROOT)
FILE = re.compile(r"[\w/]+\.py\b")
TEST = re.compile(r"(?<![\w/])test_[\w*]+(?!\w*\.py)")


def rows() -> list[str]:
    return [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]


def test_every_module_that_is_named_exists() -> None:
    names = {name for row in rows() for name in FILE.findall(row)}
    files = {path.relative_to(ROOT).as_posix() for folder in SOURCES[:2] for path in folder.rglob("*.py")}
    missing = [
        name
        for name in sorted(names)
        if not any(file.endswith(f"/{name}") for file in files) and not (ROOT / name).is_file()
    ]
    assert len(names) > 80 and not missing


def test_every_test_that_is_named_exists() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", written))
    named = {name for row in rows() for name in TEST.findall(row)}
    missing = [name for name in sorted(named) if not any(fnmatch(each, name) for each in there)]
    assert len(named) > 60 and not missing


def test_every_fault_has_four_columns_and_a_test() -> None:
    table = PAGE.read_text().partition("## Faults that were found and mended")[2]
    for row in (line for line in table.splitlines() if line.startswith("| ") and "---" not in line):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4 and all(cells), row
