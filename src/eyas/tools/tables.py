"""Tables and lists for terminals, pipes, text and Markdown. The first column of a table is left, the others right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"
"""A `rich.box.Box` of one ASCII line below the head."""
WIDE = 1000
"""Characters of a line where no terminal sets a limit: rows are never folded."""


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys instead of showing, but for tabs and ends of lines."""


def visible(text: str) -> str:
    """The text as a terminal may show it: names come from files, and their escape codes must not reach it."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def listed(names: Sequence[str], shown: int = 8) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def print_table(
    rows: Sequence[Sequence[str]], *, title: str | None = None, caption: str | None = None, numbers: bool = True
) -> None:
    """Print a table, folded to the width of a terminal; whole rows where the output is a pipe or a file.

    Args:
        rows: cells as text, all rows of one length; the first is the head.
        title: above the table.
        caption: below it.
        numbers: align every column but the first to the right; otherwise all go to the left.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

    head, *body = rows
    table = Table(title=title, caption=caption, box=Box(RULE, ascii=True), caption_justify="left")
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(_filled(table, head, body, numbers=numbers))


def as_text(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """Rows as lines of text without a rule, two spaces between the columns.

    Args:
        rows: cells as text, all rows of one length; a head is a row like the others.
        numbers: align every column but the first to the right; otherwise all go to the left.
    """
    from rich.console import Console
    from rich.table import Table

    head = [""] * max(map(len, rows), default=0)
    console = Console(file=StringIO(), width=WIDE, color_system=None)
    with console.capture() as captured:
        console.print(_filled(Table.grid(padding=(0, 2)), head, rows, numbers=numbers))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, numbers on the right; the first row is the head."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _filled(table: Table, head: Sequence[str], body: Sequence[Sequence[str]], *, numbers: bool = True) -> Table:
    """The table with its columns and rows; brackets in a cell are text, not markup."""
    from rich.text import Text

    for place, name in enumerate(head):
        table.add_column(Text(visible(name)), justify="right" if place and numbers else "left")
    for row in body:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table
