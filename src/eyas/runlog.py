"""What a run leaves behind besides its weights: the resolved config, versions, and an append-only log of metrics."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from eyas.files import could_not_write, json_text, write_atomic, write_json
from eyas.types import EyasError

CONFIG = "config.yaml"
LOG = "log.jsonl"
VERSIONS = "versions.json"
FREE = (
    *("data", "out", "teacher", "dataset.workers", "dataset.worker_timeout"),
    *("run.device", "run.threads", "run.log_every", "run.resume", "run.trackers", "run.project"),
)
"""Options that may change when a run is resumed: they say where things are and how fast, not what is trained."""

_config: ContextVar[str] = ContextVar("config", default="")


@contextmanager
def command_config(text: str) -> Iterator[None]:
    """Inside it, runs record ``text`` (YAML) as the resolved config that they were started with."""
    token = _config.set(text)
    try:
        yield
    finally:
        _config.reset(token)


def resolved_config() -> str:
    """The config of the command that is running; empty when called from Python."""
    return _config.get()


class RunLog:
    """Appends one JSON object per line to ``log.jsonl`` in a run folder, each with its kind and wall time.

    Every process may hold one; only the main process writes.

    Args:
        folder: the run folder.
        writes: whether this process is the one that writes.
        also: is given each line once it is written.
    """

    def __init__(
        self, folder: Path, *, writes: bool = True, also: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self.path = folder / LOG
        self.writes = writes
        self.also = also
        self._mended = False

    def once(self, kind: str, **values: Any) -> None:
        """Write one line, unless the log has one of its kind, from before the run was resumed."""
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
        """Have the disk take all lines: where power fails after it, no checkpoint is ahead of the log."""
        if not self.writes or not self.path.exists():
            return
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise could_not_write(self.path, error) from error


def read_log(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log, those of one kind or all.

    Steps and evaluations that a resumed run did again are given once, as they were done the last time; a torn last
    line, left by a killed run, is passed over.

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
    """Whether a line tells of what was done before the checkpoint that a run was resumed from.

    A checkpoint between the last step of an epoch and its evaluation has the step of both.
    """
    if line["kind"] == "val" and line.get("epoch", 0) > resume.get("epoch", math.inf):
        return False
    return bool(line.get("step", 0) <= resume["step"])


class LogTail:
    """Reads what was appended to a run's log since the last call, whole lines only, as a training writes it.

    Args:
        folder: the run folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._read = 0

    def __call__(self) -> list[dict[str, Any]]:
        """The new lines, in their order."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole + end)
        return [json.loads(line) for line in whole.splitlines()]


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder."""
    return (folder / LOG).exists() or (folder / CONFIG).exists()


def check_folder(folder: Path, *, resume: bool, config: str) -> None:
    """Whether a run may start, or go on, in a folder.

    Args:
        folder: the run folder; it need not exist.
        resume: go on with the run that is there.
        config: YAML of the options; a resumed run must have those that it began with, but for `FREE`.

    Raises:
        EyasError: the folder holds a run and ``resume`` is off, or the reverse, or the options are others.
    """
    holds = holds_run(folder)
    if holds and not resume:
        raise EyasError(f"{folder} already holds a run; choose another --out, or go on with it by --run.resume true")
    if not resume:
        return
    if not holds:
        raise EyasError(f"{folder} holds no run to resume; check --out, or leave --run.resume out")
    before, now = (_trained(_options(text)) for text in ((folder / CONFIG).read_text(), config))
    if not before or not now:
        return  # started from Python, where there is no config to compare
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and name not in FREE:
            raise EyasError(
                f"{folder} holds a run with {name} {before.get(name)}, not {now.get(name)}; resume it as it began "
                f"(--config {folder / CONFIG} --run.resume true), or start another one in another --out"
            )


def start_folder(folder: Path, *, config: str) -> None:
    """Make a run folder with the resolved config and the versions in it; a resumed run keeps the config it has."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise could_not_write(folder, error) from error
    if not (folder / CONFIG).exists():
        write_atomic(folder / CONFIG, lambda part: part.write_text(config))
    write_json(folder / VERSIONS, versions())


def recorded_options(folder: Path) -> dict[str, Any]:
    """Option name, dotted, to value, as a run folder records them; empty where it was made from Python."""
    path = folder / CONFIG
    return _options(path.read_text()) if path.is_file() else {}


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    packages = ("eyas", "torch", "torchvision", "accelerate", "numpy", "faster-coco-eval")
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found, "machine": platform.machine(), "cpus": str(os.cpu_count())}


def _cut_torn_line(path: Path) -> None:
    """Remove what a killed run wrote of its last line, so that the next one does not continue it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _options(text: str) -> dict[str, Any]:
    """Option name, dotted, to value."""
    return dict(_flat("", yaml.safe_load(text) or {}))


def _trained(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the images of a step in place of those of a process: other processes may share out the same."""
    if not {"devices", "dataset.batch_size"} <= options.keys():
        return options
    own = {name: value for name, value in options.items() if name not in ("devices", "dataset.batch_size")}
    return {**own, "devices x dataset.batch_size": options["devices"] * options["dataset.batch_size"]}


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value
