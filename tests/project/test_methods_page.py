"""The table of methods in docs/methods/index.md has every method, and says truly which of them a cache serves."""

from __future__ import annotations

import inspect
import re
import statistics
from pathlib import Path

from eyas.commands.methods import facts, method_class
from eyas.commands.names import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "index.md"


def test_the_table_has_every_method_and_what_a_cache_serves() -> None:
    table = PAGE.read_text(encoding="utf-8").split("<!-- methods -->")[1].split("<!-- /methods -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    names = [re.sub(r"\[`(\w+)`\].*", r"\1", row[0]) for row in rows]
    assert sorted(names) == sorted(METHODS)
    assert {name: row[4] == "yes" for name, row in zip(names, rows, strict=True)} == {
        name: facts(name).cached for name in METHODS
    }


def test_half_of_the_methods_files_are_as_short_as_the_page_says() -> None:
    said = re.search(r"half of them of fewer than (\d+) lines", PAGE.read_text(encoding="utf-8"))
    assert said is not None
    files = [Path(inspect.getfile(method_class(name))) for name in METHODS]
    lines = [sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip()) for file in files]
    assert statistics.median(lines) < int(said.group(1)) <= 90
