"""The stack on which a thread runs signal handlers, kept while a library changes it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class _Stack(ctypes.Structure):
    """`stack_t` of Linux, as for sigaltstack(2)."""

    _fields_: ClassVar = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """After the context, the calling thread has the alternate signal stack that it had before; outside Linux, nothing.

    Python runs its signal handlers on that stack. If a library has freed it, the next signal, such as the SIGCHLD of a
    child process that ends, is a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    before = _Stack()
    _sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        _sigaltstack(ctypes.byref(before), None)


def _sigaltstack(new: object, old: object) -> None:
    if ctypes.CDLL(None, use_errno=True).sigaltstack(new, old) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
