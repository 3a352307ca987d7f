"""The append-only log of a run: one JSON object per line."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eyas.tools.files import could_not_write, json_text, open_own
from eyas.tools.text_files import parse_json
from eyas.types import EyasError

LOG = "log.jsonl"


MOST = 2**53
"""The largest count: whole numbers up to it are floats as well."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_number(value: Any) -> bool:
    """Whether it is a finite number, or null, which stands for one that was not finite or not measured."""
    return value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max)


def _is_digest(value: Any) -> bool:
    """Whether it is a digest in hexadecimal, or null for what has none."""
    return value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)


def are_metrics(value: Any) -> bool:
    """Whether it is a mapping of printable names to finite numbers or null."""
    return isinstance(value, dict) and all(name.isprintable() and _is_number(each) for name, each in value.items())


def are_metrics_of_classes(value: Any) -> bool:
    """Whether it is a mapping of printable names to such mappings."""
    return isinstance(value, dict) and all(name.isprintable() and are_metrics(each) for name, each in value.items())


WORDS: Mapping[Callable[[Any], bool], str] = {
    _is_count: "a count",
    _is_number: "a finite number",
    _is_digest: "a digest",
    are_metrics: "a mapping of names to finite numbers",
    are_metrics_of_classes: "a mapping of names to their numbers",
}
"""What each check asks for, in words."""
FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "train": {"epoch": _is_count, "step": _is_count, "time": _is_number, "losses": are_metrics},
    "val": {"epoch": _is_count, "step": _is_count, "summary": are_metrics, "per_class": are_metrics_of_classes},
    "teacher": {"summary": are_metrics},
    "cost": {
        "steps": _is_count,
        "seconds_per_step": _is_number,
        "peak_memory": _is_number,
        "peak_device_memory": _is_number,
    },
    "cache": {"seconds": _is_number},
    "inputs": {"train": _is_digest, "val": _is_digest, "teacher": _is_digest},
    "resume": {"step": _is_count},
}
"""Kind of a line -> the fields that its readers need, each with its check."""
OPTIONAL: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "train": {
        "lr": _is_number,
        "gradient_norm": _is_number,
        "weights": are_metrics,
        "gradient_ratios": are_metrics,
        "last_gradient_ratios": are_metrics,
        "shares": are_metrics_of_classes,
    },
}
"""The same for fields that lines of early versions lack."""


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
            with open_own(self.path, "ab") as file:
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise could_not_write(self.path, error) from error
        if self.also is not None:
            self.also({"kind": kind, **values})

    def sync(self) -> None:
        """Flush all lines to the disk, so that no checkpoint is ahead of the log when power fails."""
        if not self.writes or not self.path.exists():
            return
        try:
            with open_own(self.path, "rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise could_not_write(self.path, error) from error


def read_log(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log, those of one kind or all.

    Steps and evaluations that a resumed run repeated appear once, as they were done last. A torn last line, left by a
    killed run, is skipped.

    Raises:
        EyasError: the folder has no log, or a line of it is damaged.
    """
    path = folder / LOG
    if not path.is_file():
        raise EyasError(f"{folder}: no {LOG} here; give the folder of a run")
    whole, _, _ = _read(path).rpartition(b"\n")
    lines: list[dict[str, Any]] = []
    step = epoch = math.inf  # the last ones that no later line made undone
    for line in reversed(list(_parsed(path, whole))):
        if _stands(line, step, epoch):
            lines.append(line)
        if line["kind"] == "resume":
            step, epoch = min(step, line["step"]), min(epoch, line.get("epoch", math.inf))
    return [line for line in reversed(lines) if kind is None or line["kind"] == kind]


def _parsed(path: Path, whole: bytes, after: int = 0) -> Iterator[dict[str, Any]]:
    """The parsed lines, which follow ``after`` earlier ones of the file. Raises EyasError for a damaged one."""
    for number, text in enumerate(whole.split(b"\n") if whole else (), start=after + 1):
        where = f"{path}: line {number} is damaged"
        try:
            line = parse_json(text.decode(), where)
        except (UnicodeDecodeError, EyasError) as error:
            raise EyasError(f"{where} and cannot be read; take it out of the file, and the others are read") from error
        if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
            raise EyasError(f"{where}: it has no kind; take it out of the file, and the others are read")
        optional = {"epoch": _is_count, "step": _is_count, **OPTIONAL.get(line["kind"], {})}
        there = {name: check for name, check in optional.items() if name in line}
        for name, check in {**there, **FIELDS.get(line["kind"], {})}.items():
            if name not in line or not check(line[name]):
                found = f"its {name} is {line[name]!r:.60}, not {WORDS[check]}" if name in line else f"it has no {name}"
                raise EyasError(f"{where}: {found}; take it out of the file, and the others are read")
        yield line


def _read(path: Path, start: int = 0) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read()
    except OSError as error:
        raise EyasError(f"{path}: cannot be read ({error.strerror})") from error


def _stands(line: Mapping[str, Any], step: float, epoch: float) -> bool:
    """Whether a line is from before the checkpoint, of this step and epoch, that a run was resumed from.

    A checkpoint between the last step of an epoch and its evaluation has the step of both.
    """
    later = line["kind"] == "val" and line["epoch"] > epoch
    return not later and bool(line.get("step", 0) <= step)


class LogTail:
    """Reads the whole lines that a training has appended to its log since the last call. The log need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._path, self._bytes, self._lines = folder / LOG, 0, 0

    def __call__(self) -> list[dict[str, Any]]:
        """The new lines. Raises EyasError for a damaged one."""
        if not self._path.is_file():
            return []
        whole, end, _ = _read(self._path, self._bytes).rpartition(b"\n")
        lines = list(_parsed(self._path, whole, self._lines))
        self._bytes, self._lines = self._bytes + len(whole + end), self._lines + len(lines)
        return lines


def _cut_torn_line(path: Path) -> None:
    """Remove the torn last line of a killed run, so that the next line does not continue it."""
    if not path.exists():
        return
    with open_own(path, "rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
