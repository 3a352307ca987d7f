"""What a run leaves behind besides its weights: the resolved config, versions, and an append-only log of metrics."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from eyas.types import EyasError

CONFIG = "config.yaml"
LOG = "log.jsonl"
VERSIONS = "versions.json"

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
        folder: the run folder; made if missing.
        writes: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.path = folder / LOG
        self.writes = writes
        if writes:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, kind: str, **values: Any) -> None:
        """Write one line. NaN and infinities become null, which JSON has."""
        if self.writes:
            line = json.dumps(_finite({"kind": kind, "time": round(time.time(), 3), **values}))
            with self.path.open("a") as file:
                file.write(line + "\n")


def read_log(folder: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, those of one kind or all. A torn last line, left by a killed run, is passed over.

    Raises:
        EyasError: the folder has no log.
    """
    path = folder / LOG
    if not path.is_file():
        raise EyasError(f"{folder}: no {LOG} here; give the folder of a run")
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            record = json.loads(line)
            if kind is None or record["kind"] == kind:
                yield record


def start_folder(folder: Path, *, resume: bool, config: str) -> None:
    """Make a run folder with the resolved config and the versions in it.

    Raises:
        EyasError: the folder holds a run already and ``resume`` is off, or the reverse.
    """
    holds_run = (folder / LOG).exists() or (folder / CONFIG).exists()
    if holds_run and not resume:
        raise EyasError(f"{folder} already holds a run; choose another --out, or go on with it by --run.resume true")
    if resume and not holds_run:
        raise EyasError(f"{folder} holds no run to resume; check --out, or leave --run.resume out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config)
    (folder / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    packages = ("eyas", "torch", "torchvision", "accelerate", "numpy", "faster-coco-eval")
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found, "machine": platform.machine(), "cpus": str(os.cpu_count())}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
