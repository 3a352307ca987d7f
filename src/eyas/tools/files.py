"""Files written whole or not at all, and figures as JSON that every reader takes."""

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
"""What a write that fails raises: torch and safetensors wrap the system's errors."""


def make_folder(folder: Path) -> None:
    """Raises EyasError when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise could_not_write(folder, error) from error


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, flush it to the disk, rename it there: readers see the old file or the new one.

    Args:
        path: the file.
        write: is given the path of the part to write.

    Raises:
        EyasError: the disk is full or the place is not writable; nothing partly written is left.
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
        with contextlib.suppress(OSError):  # the place itself may be what is wrong
            part.unlink(missing_ok=True)


def could_not_write(path: Path, error: Exception) -> EyasError:
    """What is raised when a file of a run cannot be written. It gives the system's reason, where there is one."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__  # torch raises an error of its own on top
    return EyasError(f"{path}: could not be written ({reason or error}); free some space, or choose another place")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON, with null for NaN and the infinities, which JSON has not."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all. Raises EyasError like `write_atomic`."""
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
