"""Exceptions of foreign code, as one line of an error message."""

from __future__ import annotations

import site
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from eyas.types import EyasError

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


@contextmanager
def running(what: str, images: Tensor) -> Iterator[None]:
    """In the context, an exception of a detector's own code becomes an EyasError with the size of its images.

    Args:
        what: the detector, as ``the teacher``.
        images: (batch, 3, height, width), that it runs on.

    Raises:
        EyasError: as above, or the detector changed the images in place, which the other detector is given too.
    """
    version = None if images.is_inference() else images._version
    try:
        yield
        if version is not None and images._version != version:
            raise EyasError(
                f"{what} changes the images that it is given in place, so that the next to see them, such as the "
                "student, would see different ones; let its code make new tensors, as (images - mean) / deviation does"
            )
    except EyasError:
        raise
    except Exception as error:
        height, width = images.shape[-2:]
        raise EyasError(
            f"{what} fails on images of {height} x {width} (height x width): {describe_failure(error)}. If the size "
            "is why, choose another with --dataset.resize, or give eyas.CustomDetector a divisor of the sizes it takes"
        ) from error
