"""Files written whole or not at all, and JSON without NaN."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from eyas.types import EyasError

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""Errors of a failed write: torch and safetensors wrap the system's errors."""


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises EyasError when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise could_not_write(folder, error) from error


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file, flush it to the disk, rename it: readers see the old file or the new one.

    Args:
        path: the final file.
        write: called with the path of the temporary file.

    Raises:
        EyasError: the disk is full or the folder is not writable. No partial file is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except WRITE_ERRORS as error:
        raise could_not_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be the problem
            part.unlink(missing_ok=True)


def could_not_write(path: Path, error: Exception) -> EyasError:
    """The error for a file that cannot be written. It gives the system's reason if there is one."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__  # torch raises its own error on top
    return EyasError(f"{path}: could not be written ({reason or error}); free some space, or choose another place")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON, with null for NaN and the infinities, which JSON lacks."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all, in a folder made where missing. Raises like `write_atomic`."""
    make_folder(path.parent)
    text = json_text(value, indent=2) + "\n"
    write_atomic(path, lambda part: part.write_text(text))


def file_digest(path: Path) -> bytes:
    """SHA-256 of the contents of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 of the names and the contents of some files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + file_digest(path))
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
