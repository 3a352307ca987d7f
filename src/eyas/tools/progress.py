"""Progress of long work: bars in a terminal; in a file, a pipe or a CI log, a plain line at least every 30 seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from eyas.tools.tables import visible

FIRST_LINE = 10.0
"""Seconds before the first line: shorter work prints none."""
BETWEEN_LINES = 20.0
"""Seconds between two lines. A line waits for the next `Progress.advance`, so this leaves 10 seconds for one step."""
SPEED_PERIOD = 120.0
"""Seconds over which a printed speed is averaged, so that steps of half a minute have one too."""


class Progress:
    """Shows how far each task is while the context is open, and prints milestones as lines.

    A terminal gets bars at its bottom. Elsewhere `advance` prints a line every `BETWEEN_LINES` seconds: units done and
    in all, percent, images per second, time left, notes.

    Args:
        quiet: show and print nothing (the other processes of a distributed run).
        clock: seconds from any origin.
    """

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._prints_lines = not self.console.is_terminal
        self._bars = RichProgress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            *(MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            get_time=clock,
            speed_estimate_period=SPEED_PERIOD if self._prints_lines else 30.0,
            disable=quiet or self._prints_lines,
        )
        self._clock, self._next_line = clock, clock() + FIRST_LINE

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def task(self, name: str, total: int, *, done: int = 0, unit: str = "images", images: float = 1) -> TaskID:
        """Begin a task.

        Args:
            name: at the start of its bar and of its lines.
            total: units in all.
            done: units done before, by the run that is resumed.
            unit: what is counted, in the plural.
            images: images in one unit, for the speed in images per second; 0 gives the speed in units.
        """
        return self._bars.add_task(name, total=total, completed=done, note="", unit=unit, images=images, detail="")

    def advance(
        self, task: TaskID, units: int = 1, note: Mapping[str, float] | None = None, *, detail: str | None = None
    ) -> None:
        """Move a task on. Call it with 0 units while waiting, so that lines appear meanwhile.

        Args:
            task: from `task`.
            units: done since the last call.
            note: metrics by name, such as losses: ``{"class": 0.5}`` is shown as ``class 0.500``; None leaves the last.
            detail: text for printed lines only; None leaves the last one.
        """
        fields: dict[str, Any] = {} if detail is None else {"detail": detail}
        if note is not None:
            fields["note"] = "  ".join(f"{name} {value:.3f}" for name, value in note.items())
        self._bars.update(task, advance=units, **fields)
        if self._prints_lines and self._clock() >= self._next_line:
            self._next_line = self._clock() + BETWEEN_LINES
            self.say(_line(next(each for each in self._bars.tasks if each.id == task)))

    def finish(self, task: TaskID) -> None:
        """End a task and take its bar away."""
        self._bars.remove_task(task)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """In the context, print a line once the work in it, which counts nothing, has taken `FIRST_LINE` seconds."""
        timer = threading.Timer(FIRST_LINE, self.say, [f"{text} ..."])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def say(self, text: str) -> None:
        """Print one line, above the bars."""
        self.console.print(visible(text), markup=False)


def _line(task: Task) -> str:
    """``train  1200/2000 steps  60 %  41 images/s  3:20 left  epoch 3/5  class 0.500  box 1.250``."""
    unit, images = task.fields["unit"], task.fields["images"]
    parts = [f"{task.description:<9}", f"{task.completed:.0f}/{task.total:.0f} {unit}", f"{task.percentage:.0f} %"]
    if task.speed:
        speed = task.speed * (images or 1)
        parts.append(f"{speed:.{0 if speed >= 10 else 1}f} {'images' if images else unit}/s")
    if task.time_remaining is not None:
        parts.append(f"{_duration(task.time_remaining)} left")
    return "  ".join([*parts, *filter(None, (task.fields["detail"], task.fields["note"]))])


def _duration(seconds: float) -> str:
    """200 -> ``3:20``; 4000 -> ``1:06:40``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
