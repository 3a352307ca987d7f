"""The append-only log of a run: one JSON object per line."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eyas.tools.files import could_not_write, json_text
from eyas.types import EyasError

LOG = "log.jsonl"


class RunLog:
    """Appends one JSON object per line to ``log.jsonl`` in a run folder, each with its kind and wall time.

    Args:
        folder: the run folder.
        writes: whether this process is the main one; the others write nothing.
        also: is given each line once it is written.
    """

    def __init__(
        self, folder: Path, *, writes: bool = True, also: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self.path, self.writes, self.also = folder / LOG, writes, also
        self._mended = False

    def once(self, kind: str, **values: Any) -> None:
        """Write one line, unless the log has one of its kind from before the run was resumed."""
        if self.writes and not (self.path.exists() and read_log(self.path.parent, kind)):
            self(kind, **values)

    def __call__(self, kind: str, **values: Any) -> None:
        """Write one line. NaN and infinities become null. Raises EyasError when the disk is full."""
        if not self.writes:
            return
        line = json_text({"kind": kind, "time": round(time.time(), 3), **values})
        try:
            if not self._mended:
                _cut_torn_line(self.path)
                self._mended = True
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise could_not_write(self.path, error) from error
        if self.also is not None:
            self.also({"kind": kind, **values})

    def sync(self) -> None:
        """Flush all lines to the disk, so that no checkpoint is ahead of the log when power fails."""
        if not self.writes or not self.path.exists():
            return
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise could_not_write(self.path, error) from error


def read_log(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log, those of one kind or all.

    Steps and evaluations that a resumed run repeated appear once, as they were done last. A torn last line, left by a
    killed run, is skipped.

    Raises:
        EyasError: the folder has no log.
    """
    path = folder / LOG
    if not path.is_file():
        raise EyasError(f"{folder}: no {LOG} here; give the folder of a run")
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines(keepends=True):
        if not text.endswith("\n"):
            break
        line = json.loads(text)
        if line["kind"] == "resume":
            lines = [earlier for earlier in lines if _stands(earlier, line)]
        lines.append(line)
    return [line for line in lines if kind is None or line["kind"] == kind]


def _stands(line: Mapping[str, Any], resume: Mapping[str, Any]) -> bool:
    """Whether a line is from before the checkpoint that a run was resumed from.

    A checkpoint between the last step of an epoch and its evaluation has the step of both.
    """
    later = line["kind"] == "val" and line.get("epoch", 0) > resume.get("epoch", math.inf)
    return not later and bool(line.get("step", 0) <= resume["step"])


class LogTail:
    """Reads the whole lines that a training has appended to its log since the last call. The log need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._path, self._read = folder / LOG, 0

    def __call__(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole + end)
        return [json.loads(line) for line in whole.splitlines()]


def _cut_torn_line(path: Path) -> None:
    """Remove the torn last line of a killed run, so that the next line does not continue it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
