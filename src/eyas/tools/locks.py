"""A folder in which one command at a time works.

The lock is the system's (flock on a small file in the folder), so it ends with the process that holds it, however that
process ends. The file says who holds it. A killed process leaves the file, which the next one takes over.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from eyas.tools.files import could_not_write, make_folder
from eyas.types import EyasError

LOCK = ".lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of file systems without locks."""
HOLDER_BYTES = 200

_held: set[int] = set()
"""File descriptors of this process's locks."""


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """In the context, this is the only command that works in a folder, which is made if it is missing.

    A folder that was made here and is still empty at the end is removed again. On a file system without locks the
    context warns and protects nothing.

    Raises:
        EyasError: another process is at work there, or the folder is not writable.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _acquire(folder)
    _held.add(descriptor)
    _close_in_forks()
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, or the disk read-only by now
            (folder / LOCK).unlink()
        _held.discard(descriptor)
        os.close(descriptor)
        with suppress(OSError):
            for path in missing:
                path.rmdir()


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """In the context, no other process is in the context of this folder: the others wait until it ends.

    Where the folder cannot be made, or has a file system without locks, nothing waits.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl

            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / LOCK).open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _acquire(folder: Path, how: int = os.O_RDONLY) -> int:
    """The descriptor of the folder's lock file, locked and with this process's name in it."""
    path = folder / LOCK
    while True:
        make_folder(folder)
        try:
            descriptor = os.open(path, how | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            continue  # the process that made the folder has removed it, empty, meanwhile
        except OSError as error:
            raise could_not_write(path, error) from error
        try:
            _lock(descriptor, folder)
            if _is_at(descriptor, path):
                path.write_text(_this_process())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EBADF and how == os.O_RDONLY:
                return _acquire(folder, os.O_RDWR)  # over NFS; elsewhere it would keep a disk from becoming read-only
            raise could_not_write(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file of a process that ended meanwhile and removed it


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, HOLDER_BYTES, 0).decode(errors="replace")
        who = f"another process ({holder})" if holder else "another process"
        raise EyasError(f"{who} is at work in {folder}; wait for its end, or choose another folder") from None
    except (OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
        text = f"{folder} cannot be locked here ({error}); start no second command with this folder"
        warnings.warn(text, stacklevel=5)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


@cache
def _close_in_forks() -> None:
    """Have forked children close the locks that they inherit: a lock is held as long as any process has it open."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()
