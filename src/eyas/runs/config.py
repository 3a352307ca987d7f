"""What a run folder records besides weights and log: the resolved config and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any

from eyas.runs.log import LOG
from eyas.tools.files import make_folder, remove_parts, write_json, write_text
from eyas.tools.tables import visible
from eyas.tools.text_files import read_yaml_mapping
from eyas.types import EyasError

CONFIG = "config.yaml"
RESUME = "last.pt"
"""The checkpoint that a run resumes from."""
VERSIONS = "versions.json"

TEXT, COUNT, NUMBER, NAMES = (str,), (int,), (int, float), (list, dict)
WORDS = {
    TEXT: "a printable text",
    COUNT: "a whole number",
    NUMBER: "a number",
    NAMES: "a list or a mapping of class names",
}
READ: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "": {"data": TEXT, "teacher": TEXT, "teacher_scale": NUMBER, "devices": COUNT},
    "dataset": {
        **{"format": TEXT, "boxes": TEXT, "train_split": TEXT, "val_split": TEXT},
        **{"val_fraction": NUMBER, "val_seed": COUNT, "classes": NAMES, "batch_size": COUNT},
    },
    "optim": {"accumulate": COUNT, "ema": NUMBER},
    "run": {"epochs": COUNT, "seed": COUNT, "metric": TEXT},
}
"""Group -> the options in it that commands read from a run's config, with their types; any may be null."""
MENDED = "correct it, or get the run again"

_config: ContextVar[str] = ContextVar("config", default="")


@contextmanager
def command_config(text: str) -> Iterator[None]:
    """In the context, runs record ``text`` (YAML) as the resolved config that they were started with."""
    token = _config.set(text)
    try:
        yield
    finally:
        _config.reset(token)


def resolved_config() -> str:
    """The config of the command that is running; empty when called from Python."""
    return _config.get()


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder."""
    return (folder / LOG).exists() or (folder / CONFIG).exists()


@contextmanager
def resume_note(folder: Path | None) -> Iterator[None]:
    """In the context, an error of a training in this folder notes how to go on, where there is a checkpoint."""
    try:
        yield
    except Exception as error:
        if folder is not None and (folder / RESUME).is_file():
            error.add_note("the last checkpoint is intact: go on from it with --run.resume true")
        raise


def start_folder(folder: Path, *, config: str) -> None:
    """Make a run folder with the resolved config and the versions in it; a resumed run keeps the config it has."""
    make_folder(folder)
    remove_parts(folder)
    if not (folder / CONFIG).exists():
        write_text(folder / CONFIG, config)
    write_json(folder / VERSIONS, versions())


def recorded_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run; empty where it was made from Python.

    Raises:
        EyasError: the file is damaged, or an option that commands read from it is of another type.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    config = read_yaml_mapping(path)
    for group, options in READ.items():
        holder = config.get(group, {}) if group else config
        if not isinstance(holder, dict):
            raise EyasError(f"{path}: {group} is {holder!r:.60}, not a mapping of options; {MENDED}")
        for name, kind in options.items():
            value = holder.get(name)
            readable = value is None or (
                isinstance(value, kind) and visible(str(value)) == str(value) and value == value
            )
            if not readable:
                dotted = f"{group}.{name}".removeprefix(".")
                raise EyasError(f"{path}: {dotted} is {value!r:.60}, not {WORDS[kind]}; {MENDED}")
    return config


def recorded_options(folder: Path) -> dict[str, Any]:
    """The resolved config of a run as `flat_options`."""
    return flat_options(recorded_config(folder))


def flat_options(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted option name to value; a mapping in a list is named by its index, as in ``method.0.class_path``.

    Args:
        values: a config from YAML, or None where that is empty.
        prefix: of the names.
    """
    entries: Mapping[Any, Any] = {}
    if isinstance(values, Mapping):
        entries = values
    elif isinstance(values, list) and any(isinstance(entry, Mapping) for entry in values):
        entries = dict(enumerate(values))
    if not entries:
        return {prefix: values} if prefix else {}
    options: dict[str, Any] = {}
    for key, value in entries.items():
        options |= flat_options(value, f"{prefix}.{key}" if prefix else str(key))
    return options


def versions() -> dict[str, str]:
    """The versions that decide the numbers of a run."""
    packages = ("eyas", "torch", "torchvision", "accelerate", "numpy", "faster-coco-eval")
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found, "machine": platform.machine(), "cpus": str(os.cpu_count())}
