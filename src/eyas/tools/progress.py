"""A progress bar on long work, and one printed line for each milestone, which also reads well in a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Bars at the bottom of a terminal while the context is open. Elsewhere only the printed lines appear.

    Args:
        quiet: show and print nothing (the other processes of a distributed run).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = RichProgress(*columns, console=self.console, disable=quiet or not self.console.is_terminal)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bars.stop()

    def task(self, name: str, total: int, *, done: int = 0) -> TaskID:
        """A new bar of ``total`` units, ``done`` of them behind it."""
        return self._bars.add_task(name, total=total, completed=done, note="")

    def advance(self, task: TaskID, units: int = 1, note: Mapping[str, float] | None = None) -> None:
        """Move a bar on, with figures beside it."""
        text: dict[str, Any] = {}
        if note is not None:
            text["note"] = "  ".join(f"{name} {value:.3f}" for name, value in note.items())
        self._bars.update(task, advance=units, **text)

    def finish(self, task: TaskID) -> None:
        """Take a bar away."""
        self._bars.remove_task(task)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(text, markup=False)
