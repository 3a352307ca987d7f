"""One table for terminals, pipes and text: the first column left, the others right."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

RULE = "    \n    \n -- \n    \n    \n    \n    \n    \n"
"""A `rich.box.Box` with one line of ASCII below the head and nothing else."""
WIDE = 1000
"""Characters of a line where no terminal sets a limit: rows are never folded."""


def table(rows: Sequence[Sequence[str]], *, title: str | None = None, caption: str | None = None) -> Table:
    """A rich table.

    Args:
        rows: cells as text, all rows of one length; the first is the head.
        title: above it.
        caption: below it.
    """
    from rich.box import Box
    from rich.table import Table

    head, *body = rows
    result = Table(title=title, caption=caption, box=Box(RULE, ascii=True), caption_justify="left")
    for place, name in enumerate(head):
        result.add_column(_plain(name), justify="right" if place else "left")
    for row in body:
        result.add_row(*map(_plain, row))
    return result


def print_table(rows: Sequence[Sequence[str]], *, title: str | None = None, caption: str | None = None) -> None:
    """Print a `table`, folded to the width of a terminal; whole rows where the output is a pipe or a file."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(table(rows, title=title, caption=caption))


def as_text(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """Rows as lines of text without a rule, two spaces between the columns.

    Args:
        rows: cells as text, all rows of one length; a head is a row as the others.
        numbers: every column but the first goes to the right; otherwise all go to the left.
    """
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for place in range(max(map(len, rows), default=0)):
        grid.add_column(justify="right" if place and numbers else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(_plain, row))
    console = Console(file=StringIO(), width=WIDE, color_system=None)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _plain(cell: str) -> Text:
    """Brackets in a cell are text, not markup."""
    from rich.text import Text

    return Text(cell)
