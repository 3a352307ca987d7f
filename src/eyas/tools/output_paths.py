"""Whether a command could write where it was asked to; checked before its work, and nothing is created."""

from __future__ import annotations

import os
from pathlib import Path

from eyas.types import EyasError

NAME_LIMIT = 255
"""Bytes of one name in a path, on common file systems."""


def check_output_files(*paths: Path | None) -> None:
    """Check that files could be written, their folders made where missing; None is skipped.

    Raises:
        EyasError: a folder has that name, a folder of the path cannot be made or is not writable, or one would
            overwrite another.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        _check(path)
        if path.is_dir():
            raise EyasError(f"{path}: is a folder; give the name of a file")
    if len({os.path.abspath(path) for path in given}) < len(given):
        raise EyasError(f"{given[0]}: two outputs have this name; give each its own")


def check_output_folder(path: Path) -> None:
    """Check that files could be written to a folder, made where missing. Raises EyasError."""
    _check(path)
    if path.exists() and not path.is_dir():
        raise EyasError(f"{path}: is a file; give the name of a folder")


def _check(path: Path) -> None:
    for name in path.parts:
        if len(os.fsencode(name)) > NAME_LIMIT:
            raise EyasError(f"{name[:40]}...: a name of more than {NAME_LIMIT} bytes; choose a shorter one")
    there = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    if there != path and not there.is_dir():
        raise EyasError(f"{path}: could not be written, since {there} is a file; choose another place")
    if not os.access(there, os.W_OK):
        raise EyasError(f"{path}: could not be written, since {there} is not writable; choose another place")
