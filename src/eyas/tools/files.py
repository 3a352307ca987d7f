"""Files written whole or not at all, and JSON without NaN."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safetensors import SafetensorError

from eyas.tools.causes import causes
from eyas.types import EyasError

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""Errors of a failed write: torch and safetensors wrap the system's errors."""
NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open`: fail where the path is a link. A folder that others made may hold links to any file."""
REMEDIES: Mapping[int | None, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "make its folder writable for you, or choose another place"),
    errno.EROFS: "its file system is read-only: choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "its folder is missing: make it again, or choose another place",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file stands in the way: remove it, or choose another place"),
    errno.EISDIR: "a folder stands in the way: remove it, or choose another place",
    errno.ELOOP: "a link stands in the way: remove it, or choose another place",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open: raise the limit (ulimit -n 4096)"),
}
"""Number of the system's error -> what to do."""
PART = ".part"
"""Suffix of a file or folder that is being written."""
PART_OF_NAME = 60
"""Characters of the final name in that of its part, which must not become too long for the file system."""


def make_folder(folder: Path, *, within: Path | None = None) -> None:
    """Create a folder and its parents. Raises EyasError when that fails, and as `refuse_links` does with ``within``."""
    if within is not None:
        refuse_links(folder, within)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise could_not_write(folder, error) from error


def refuse_links(folder: Path, within: Path) -> None:
    """Check that a folder, which need not exist, is truly below another one, which the user has named.

    Raises:
        EyasError: it, or a folder between them, is a link: who made it may have chosen any place.
    """
    for part in (folder, *folder.parents)[: len(folder.relative_to(within).parts)]:
        if part.is_symlink():
            raise EyasError(f"{part}: is a link, and what is written there would land elsewhere; remove the link")


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file, flush it to the disk, rename it: readers see the old file or the new one.

    The temporary file is a new one of its own beside the final file. So no link is followed, and two processes that
    write the same file never write into each other: the last one to rename wins. A link in the place of the final file
    is replaced.

    Args:
        path: the final file.
        write: called with the path of the temporary file, which exists and is empty.

    Raises:
        EyasError: the disk is full or the folder is not writable. No partial file is left.
    """
    part = part_of(path)
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666))
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except WRITE_ERRORS as error:
        raise could_not_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be the problem
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A new name beside a file or folder, under which it is written before it is renamed."""
    return path.with_name(f"{path.name[:PART_OF_NAME]}.{uuid.uuid4().hex[:12]}{PART}")


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder. Only for a folder that no other process writes."""
    for part in folder.glob(f"*{PART}"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def could_not_write(path: Path, error: Exception) -> EyasError:
    """The error for a file that cannot be written. It gives the system's reason if there is one."""
    reason = next((cause for cause in causes(error) if isinstance(cause, OSError)), None)  # torch raises its own on top
    remedy = REMEDIES[errno.ENOSPC] if reason is None else REMEDIES.get(reason.errno, "choose another place")
    return EyasError(f"{path}: could not be written ({reason or error}); {remedy}")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all. Raises EyasError like `write_atomic`."""
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def open_own(path: Path, mode: Literal["ab", "rb+"]) -> BinaryIO:
    """Open a file to append to it or to change it. Raises OSError, also for a link to another file, or a pipe."""
    if path.exists() and not path.is_file():  # to open a pipe would wait for its other end
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | NO_LINK, 0o666))


def check_file(path: Path) -> None:
    """Raises EyasError for what is there and is no file: to open a pipe would wait for its other end."""
    if path.exists() and not path.is_file():
        raise EyasError(f"{path}: is not a file; remove it, or give another path")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON, with null for NaN and the infinities, which JSON lacks."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all, in a folder made where missing. Raises like `write_atomic`."""
    make_folder(path.parent)
    write_text(path, json_text(value, indent=2) + "\n")


def file_digest(path: Path) -> bytes:
    """SHA-256 of the contents of a file, read piece by piece. Raises EyasError where it is no file."""
    check_file(path)
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
