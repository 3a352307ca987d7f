"""Digests of many files, remembered from one command to the next.

A file counts as unchanged while its size, inode, modification and change time are those that it had when it was read,
as for git's index. A file that is written or replaced has another change time, whatever its other times are set to.
What is remembered is in the user's cache folder, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyas.tools.files import file_digest, make_folder, write_atomic
from eyas.tools.locks import in_turn
from eyas.types import EyasError

MANY = 2000
"""Number of files from which their digests are remembered: fewer are read at once."""
SETTLED = 2 * 10**9
"""Nanoseconds that a file must be older than its reading: two writes within one tick of a clock have one time."""
ENTRY = np.dtype([("name", "<u8"), ("stamp", "<i8", 4), ("digest", "u1", 32)])
"""A file: a hash of its path; size, inode, modification and change time; SHA-256 of its contents."""

Entries = npt.NDArray[Any]
"""An array of `ENTRY`."""


def file_digests(
    paths: Sequence[Path], folder: Path, advance: Callable[[], object], *, same_elsewhere: bool = False
) -> list[bytes]:
    """The SHA-256 of the contents of each file. Files that have not changed since another command are not read.

    Args:
        paths: the files.
        folder: that they belong to, under which their digests are remembered.
        advance: called after each file that is read.
        same_elsewhere: other processes may ask for the same files now: one reads them, and the others wait for it.

    Raises:
        EyasError: a file cannot be read.
    """
    memory = memory_of(folder)
    asked = np.zeros(len(paths), ENTRY)
    for index, path in enumerate(paths):
        asked[index] = (_name(path), _stamp(path), 0)
    if len(paths) < MANY:
        _read(paths, asked, range(len(paths)), advance)
    elif len(_recall(memory, asked)):
        with in_turn(memory) if same_elsewhere else nullcontext():
            missing = _recall(memory, asked)
            now = time.time_ns()
            _read(paths, asked, missing.tolist(), advance)
            fresh = asked[missing]
            _remember(memory, fresh[(fresh["stamp"][:, 2:] < now - SETTLED).all(1)])
    return [digest.tobytes() for digest in asked["digest"]]


def memory_of(folder: Path) -> Path:
    """Where the digests of a folder's files are remembered."""
    home = os.path.expanduser("~")
    own = os.devnull if home == "~" else os.path.join(home, ".cache")  # a user without a home: nothing is remembered
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    return Path(os.environ.get("XDG_CACHE_HOME") or own) / "eyas" / "digests" / name


def _name(path: Path) -> int:
    # Two paths of one number would differ in their stamps.
    return int.from_bytes(hashlib.blake2b(os.fsencode(os.path.abspath(path)), digest_size=8).digest())


def _stamp(path: Path) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_size, found.st_ino & (2**63 - 1), found.st_mtime_ns, found.st_ctime_ns


def _read(paths: Sequence[Path], asked: Entries, chosen: Sequence[int], advance: Callable[[], object]) -> None:
    """Set the digests of the chosen entries."""
    for index in chosen:
        try:
            asked["digest"][index] = np.frombuffer(file_digest(paths[index]), np.uint8)
        except OSError as error:
            raise _unreadable(paths[index], error) from error
        advance()


def _unreadable(path: Path, error: OSError) -> EyasError:
    return EyasError(f"{path}: cannot be read ({error}); restore it, or remove its annotations")


def _recall(memory: Path, asked: Entries) -> npt.NDArray[np.intp]:
    """Set the digests that are remembered; returns the indices of the others."""
    known = _load(_parts(memory))
    same = np.zeros(len(asked), bool)
    if len(known):
        at = np.searchsorted(known["name"], asked["name"]).clip(max=len(known) - 1)
        same = (known["name"][at] == asked["name"]) & (known["stamp"][at] == asked["stamp"]).all(1)
        asked["digest"][same] = known["digest"][at[same]]
    return np.flatnonzero(~same)


def _remember(memory: Path, fresh: Entries) -> None:
    """Write the digests into a new file with those of the files that are there, and remove those.

    Processes may do this at the same time, and where nothing can be written, nothing is lost but time.
    """
    parts = _parts(memory)
    merged = _latest([_load(parts), fresh])

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, merged, allow_pickle=False)

    with suppress(EyasError):
        make_folder(memory)
        write_atomic(memory / f"{time.time_ns()}-{os.getpid()}.npy", write)
        for part in parts:
            part.unlink(missing_ok=True)


def _parts(memory: Path) -> list[Path]:
    return sorted(memory.glob("*.npy"))


def _load(parts: Sequence[Path]) -> Entries:
    """The entries of the files, by rising name; damaged files count as empty."""
    found = [np.zeros(0, ENTRY)]
    for part in parts:
        with suppress(OSError, ValueError, EOFError):
            entries = np.load(part, allow_pickle=False)
            if entries.dtype == ENTRY and entries.ndim == 1:
                found.append(entries)
    return _latest(found)


def _latest(entries: Sequence[Entries]) -> Entries:
    """All entries by rising name, the last of each."""
    every = np.concatenate(entries)[::-1]
    return every[np.unique(every["name"], return_index=True)[1]]
