"""Which files are checkpoints of libreyolo."""

from __future__ import annotations

from pathlib import Path

from eyas.tools.pickle_bytes import pickle_bytes

NATIVE_FILE = "model.pt"
"""The checkpoint in the folder ``native`` of a run."""
MARK = b"libreyolo_version"
"""A key that every checkpoint of libreyolo has beside its weights."""


def checkpoint_path(name: str | Path) -> Path:
    """The file that a name stands for, in a folder `NATIVE_FILE`, whether or not there is one."""
    path = Path(name)
    return path / NATIVE_FILE if path.is_dir() else path


def is_checkpoint(path: Path) -> bool:
    """Whether a file has the `MARK` of libreyolo."""
    return MARK in pickle_bytes(path)
