"""The size of the images that the teacher of a run gets: not always its student's, nor that of its own training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from eyas.data.options import Resize
from eyas.detectors import native_format
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import native_resize
from eyas.types import Record

ROUNDING = 0.02
"""Input sizes that differ by at most this fraction are one size."""


def teacher_resize(run: Path, resize: Resize) -> Resize:
    """The resize of a run's teacher: ``teacher_scale`` times that of its student. 1 where the run records none."""
    return resize.times(float(recorded_config(run).get("teacher_scale") or 1))


def size_note(name: str, given: Resize) -> str | None:
    """A line about the size of the images that a library's detector gets where ``given`` says none; else None."""
    if given != Resize() or native_format(name) is None:
        return None
    stated = native_resize(name)
    if stated is None:
        return "images keep their size, for the detector states none; --resize 640x480 sets one"
    sides = ", ".join(f"{side} {pixels}" for side, pixels in asdict(stated).items() if pixels is not None)
    return f"images are resized to {sides} pixels, as the detector's own files say; --resize sets another size"


def unlike_training(name: str, resize: Resize, records: Iterable[Record]) -> str | None:
    """A sentence about a detector that gets images of another size than in its training; None for any other.

    Args:
        name: run folder, or folder of a library that states a size; others do not tell the size of their training.
        resize: of the images that the detector gets.
        records: the images.
    """
    folder = Path(name)
    trained = ModelSpec.load(folder).resize if (folder / SPEC).is_file() else native_resize(name)
    if trained is None:
        return None
    for size in dict.fromkeys((record.height, record.width) for record in records):
        own, given = trained.output_size(size), resize.output_size(size)
        if any(abs(now - before) > ROUNDING * before for before, now in zip(own, given, strict=True)):
            return (
                f"{name} was trained on images of {own[0]} x {own[1]} (height x width) and gets {given[0]} x {given[1]}"
                " here (student's size x teacher_scale), where it may score worse"
            )
    return None
