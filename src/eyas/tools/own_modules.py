"""Modules of the user's own, in the working folder.

Commands do not search the working folder for imports, where a file may be called queue.py. When the user names a
module, the folder becomes the last entry of Python's path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType

_of_command: ContextVar[bool] = ContextVar("of_command", default=False)


@contextmanager
def modules_of_command() -> Iterator[None]:
    """In the context of a command, modules that the user names are found in the working folder too."""
    token, before = _of_command.set(True), list(sys.path)
    try:
        yield
    finally:
        _of_command.reset(token)
        sys.path[:] = before


def find_own_modules() -> None:
    """Let imports find modules of the working folder, after all others. No effect outside a command."""
    if _of_command.get() and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def import_own(module: str) -> ModuleType:
    """Import a module that the user named."""
    find_own_modules()
    return import_module(module)
