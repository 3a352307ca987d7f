"""Which feature level of the student imitates which level of the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from eyas.distillation.teachers import Teacher
from eyas.methods.method import LevelPair
from eyas.nn.taps import probe
from eyas.types import Detector, EyasError, Level

Pairing = Mapping[str, str] | Literal["index"] | None
"""Student tap -> teacher tap; or index, the finest level with the teacher's finest and so on; None for the same stride.

The authors of PKD pair by index, so that P2 of a two-stage teacher is imitated by P3 of a one-stage student.
"""


def pair_levels(
    student: Detector, teacher: Teacher, names: Pairing = None, *, scale: float = 1.0
) -> tuple[LevelPair, ...]:
    """Pair the levels of the student with the teacher's levels; a forward pass of both checks them.

    Args:
        names: see `Pairing`.
        scale: how many times larger the teacher sees the images.

    Raises:
        EyasError: a name is no level, or no stride is common. The message lists the levels of both.
    """
    if names not in (None, "index") and not isinstance(names, Mapping):
        raise EyasError(f'pairs is "index" or maps levels of the student to levels of the teacher, got {names!r}')
    if names == "index":
        names = dict(zip(student.levels, teacher.levels, strict=False))
    chosen = names or _same_stride(student.levels, teacher.levels, scale)
    unknown = [s for s in chosen if s not in student.levels] + [t for t in chosen.values() if t not in teacher.levels]
    if unknown or not chosen:
        larger = "" if scale == 1 else f", taken {scale:g} times,"
        problem = f"no level of the student has the stride{larger} of one of the teacher's"
        raise EyasError(
            f"{'no level is called ' + ', '.join(unknown) if unknown else problem}.\n"
            f"  student: {describe_levels(student.levels)}\n  teacher: {describe_levels(teacher.levels)}\n"
            "Name the pairs yourself as student level: teacher level; maps are compared by position."
        )
    probe(student, list(chosen), "student")
    rectified = teacher.rectified(list(chosen.values()))
    places = {name: place for place, name in enumerate(student.levels)}
    return tuple(
        LevelPair(s, student.levels[s], t, teacher.levels[t], rectified[t], scale, places[s]) for s, t in chosen.items()
    )


def describe_levels(levels: Mapping[str, Level]) -> str:
    """One line: tap name, stride and channels of each level."""
    return ", ".join(f"{name} (stride {level.stride}, {level.channels} channels)" for name, level in levels.items())


def _same_stride(student: Mapping[str, Level], teacher: Mapping[str, Level], scale: float) -> dict[str, str]:
    """Each level with the teacher's nearest free level, ``scale`` apart and less than half an octave away."""
    free, pairs = dict(teacher), dict[str, str]()
    for name, level in student.items():
        octaves = {other: abs(math.log2(rival.stride / (level.stride * scale))) for other, rival in free.items()}
        nearest = min(octaves, key=octaves.__getitem__, default=None)
        if nearest is not None and octaves[nearest] < 0.5:
            pairs[name] = nearest
            del free[nearest]
    return pairs
