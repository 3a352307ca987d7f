"""The table of methods in docs/methods/index.md has every method, and says truly which of them a cache serves."""

from __future__ import annotations

import re
from pathlib import Path

from eyas.commands.methods import facts
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
