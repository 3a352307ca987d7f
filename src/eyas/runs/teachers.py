"""The teacher of a run: the size of the images that it gets, which is not always the student's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eyas.data.options import Resize
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.config import recorded_config
from eyas.types import Record

ROUNDING = 0.02
"""Input sizes that differ by at most this fraction are one size."""


def teacher_resize(run: Path, resize: Resize) -> Resize:
    """The resize of a run's teacher: ``teacher_scale`` times that of its student. 1 where the run records none."""
    return resize.times(float(recorded_config(run).get("teacher_scale") or 1))


def unlike_training(name: str, resize: Resize, records: Iterable[Record]) -> str | None:
    """A sentence about a detector that gets images of another size than in its training; None for any other.

    Args:
        name: run folder; any other name does not tell the size of its training.
        resize: of the images that the detector gets.
        records: the images.
    """
    folder = Path(name)
    if not (folder / SPEC).is_file():
        return None
    trained = ModelSpec.load(folder).resize
    for size in dict.fromkeys((record.height, record.width) for record in records):
        own, given = trained.output_size(size), resize.output_size(size)
        if any(abs(now - before) > ROUNDING * before for before, now in zip(own, given, strict=True)):
            return (
                f"{name} was trained on images of {own[0]} x {own[1]} (height x width) and gets {given[0]} x {given[1]}"
                " here (student's size x teacher_scale), where it may score worse"
            )
    return None
