"""The message of the error that ended a command, which then has exit status 2."""

from __future__ import annotations

import errno
import os
import re

from eyas.tools.causes import causes
from eyas.tools.shortage import shortage
from eyas.types import EyasError

LOST = re.compile(r"connection (closed|reset) by peer|broken pipe|pair closure|remote process exited", re.IGNORECASE)
"""What gloo and NCCL say when another process has gone."""
UNUSABLE = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE),
}
"""What the system answers for a path that no command can use, wherever one is first met."""


def explained(error: Exception) -> str | None:
    """The message for an error, with its notes; None for one that only a mistake in the code explains."""
    text = shortage(error)
    if text is None and isinstance(error, EyasError):
        text = str(error)
    if text is None and lost_process(error):
        text = "the connection to another process of this training was lost; what that process printed says why"
    if text is None and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "a temporary folder or /dev/shm"
        text = f"{where}: could not be written ({error.strerror}); free some space"
    if text is None and isinstance(error, OSError) and error.filename is not None and error.errno in UNUSABLE:
        text = f"{error.filename}: cannot be used ({error.strerror}); choose another path"
    if text is None and isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve
        text = f"{error}; remove the link, or choose another path"
    if text is None and isinstance(error, FileNotFoundError) and not _has_working_folder():
        text = "the working folder was removed; go to another one, and call the command again"
    return None if text is None else "; ".join([text, *getattr(error, "__notes__", ())])


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def lost_process(error: Exception) -> bool:
    """Whether a process failed because another one of the same training has gone, by its error or what caused it."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")
    return several and any(isinstance(cause, RuntimeError) and LOST.search(str(cause)) for cause in causes(error))
