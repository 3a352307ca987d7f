"""What an exception of somebody else's code says, in one line that fits into an error message."""

from __future__ import annotations

import site
import sysconfig
import traceback
from pathlib import Path

LONGEST = 300
"""Characters of an exception's own text."""


def describe_failure(error: BaseException) -> str:
    """``RuntimeError: the text (mine.py, line 3, in forward)``: the innermost frame outside Eyas and libraries.

    Where every frame is in a library, the innermost one of all is named.
    """
    text = " ".join(str(error).split())[:LONGEST]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if not frames:
        return said
    frame = (own or list(frames))[-1]
    return f"{said} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"


def _is_library(file: str) -> bool:
    libraries = (*site.getsitepackages(), sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[1]))
    return file.startswith(("<", *libraries))
