"""Runs the parts one after the other, each in a process with a limit of time, and writes what they find as it comes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu.cases import Row
from eyas.tools.children import how_it_ended, start_child
from eyas.tools.files import write_json

POLL = 0.2
SOFT = 0.95
"""The fraction of its time after which a part begins no further case."""


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        name: its key in the JSON.
        seconds: its share of the time; what it leaves unused passes on to the parts after it.
        module: has ``cases(bench)``, see `benchmarks.gpu.cases`.
    """

    name: str
    seconds: float
    module: str


@dataclass
class Result:
    """What is known about a part: every case by name, and how it ended. ``status`` is running, done or failed."""

    status: str = "running"
    seconds: float = 0.0
    limit: float = 0.0
    error: str | None = None
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, entry: Row) -> str:
        """Take what `benchmarks.gpu.cases.perform` emitted. Returns it as a line to print."""
        name = entry["case"]
        case = self.cases.setdefault(name, {"rows": []})
        rest = {key: value for key, value in entry.items() if key not in ("case", "row")}
        case.update(rest)
        if "row" in entry:
            case["rows"].append(entry["row"])
            return f"{name}: {shown(entry['row'])}"
        return f"{name}: {shown(rest) or 'begins'}"

    def end(self, returned: int | None) -> None:
        """Say how the part ended, from the return code of its process, None where its time ran out."""
        failed = [name for name, case in self.cases.items() if "error" in case]
        unfinished = [name for name, case in self.cases.items() if not {"seconds", "left_out"} & case.keys()]
        if returned is None:
            self.error = f"its time was over{''.join(f' in {name}' for name in unfinished)}"
        elif returned:
            self.error = f"the process {how_it_ended(returned)}{''.join(f' in {name}' for name in unfinished)}"
        elif failed:
            self.error = f"failed: {', '.join(failed)}"
        self.status = "failed" if self.error else "done"

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


def shown(row: Row) -> str:
    """A row in one line, long values cut."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value!s:.120}" for key, value in row.items()
    )


@dataclass
class Run:
    """A run of some parts, each in a process of its own with a limit of time.

    Args:
        parts: in the order in which they are run.
        arguments: of `benchmarks.gpu.child`: the device, the folder for files, and whether all is tiny.
        folder: gets the rows of each part.
        save: writes the results so far.
    """

    parts: Sequence[Part]
    arguments: Sequence[str]
    folder: Path
    save: Callable[[Mapping[str, Result]], object]
    results: dict[str, Result] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def __call__(self, part: Part) -> bool:
        """Run one of the parts. Returns whether it was done without an error."""
        self.results[part.name] = result = Result()
        for line in self._run(part, result):
            print(f"{time.monotonic() - self.began:5.0f} s  {part.name:<9} {line}", flush=True)
        self.save(self.results)
        return result.status == "done"

    def ends(self, part: Part) -> float:
        """When a part's time is over, by `time.monotonic`: that of the parts before it and its own."""
        before = self.parts[: self.parts.index(part) + 1]
        return self.began + sum(each.seconds for each in before)

    def _run(self, part: Part, result: Result) -> Iterator[str]:
        """Run a part; gives a line for all that happens."""
        began, rows = time.monotonic(), self.folder / f"{part.name}.jsonl"
        limit = self.ends(part) - began
        result.limit = round(limit, 1)
        rows.touch()
        command = [sys.executable, "-m", "benchmarks.gpu.child", part.module, "--rows", str(rows)]
        process = start_child([*command, "--seconds", f"{SOFT * limit:.1f}", *self.arguments], os.environ)
        try:
            with rows.open(encoding="utf-8") as file:
                while True:
                    running = process.poll() is None  # before the rows, so that none is missed
                    for line in complete_lines(file):
                        yield result.add(json.loads(line))
                        self.save(self.results)
                    result.seconds = round(time.monotonic() - began, 1)
                    if not running or time.monotonic() >= self.ends(part):
                        break
                    time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
        result.end(None if running else process.returncode)
        yield result.error or result.status


def complete_lines(file: TextIO) -> Iterator[str]:
    """The lines of a text file that have been written to their end since the last call."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return
        yield line


def write_results(path: Path, head: Mapping[str, Any], results: Mapping[str, Result]) -> None:
    """Write the JSON of a run: ``head``, then every part."""
    write_json(path, {**head, "parts": {name: result.as_json() for name, result in results.items()}})
