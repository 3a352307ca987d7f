"""A student's neck and head that start as its teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eyas.detectors.backbone import backbone_of
from eyas.detectors.class_names import listed
from eyas.detectors.weight_files import COUNTER
from eyas.types import Detector, EyasError

NAMED = 3
"""Tensors that the line about an inheritance names at most."""


@dataclass(frozen=True)
class Inherited:
    """Names of the student's tensors outside of its backbone.

    Attributes:
        copied: those that are now the teacher's.
        kept: those that the teacher has not, or in another shape; they are as they were.
        numbers: how many numbers were copied.
    """

    copied: tuple[str, ...]
    kept: tuple[str, ...]
    numbers: int

    def __str__(self) -> str:
        copied = f"starts with {len(self.copied)} tensors of the teacher ({self.numbers / 1e6:.2f} M numbers)"
        if not self.kept:
            return f"{copied}, all that are not of its backbone"
        more = ", ..." if len(self.kept) > NAMED else ""
        return f"{copied}; its own outside of the backbone are {', '.join(self.kept[:NAMED])}{more} ({len(self.kept)})"


def inherit(student: Detector, teacher: Detector) -> Inherited:
    """Copy the teacher's neck and head into the student: what is not of its backbone, where name and shape agree.

    The authors of FGD and MGD do it for one-stage students, and much of their gain is from it.

    Args:
        student: is changed. Build the optimiser, or the distiller, afterwards.
        teacher: of the same library and the same classes.

    Raises:
        EyasError: the classes differ, the student's backbone is unknown, or nothing agrees.
    """
    if tuple(student.classes) != tuple(teacher.classes):
        raise EyasError(
            "a head is inherited where both have the same classes in the same order; the teacher's are "
            f"{listed(teacher.classes)}, the student's {listed(student.classes)}"
        )
    own, theirs = student.network.state_dict(), teacher.network.state_dict()
    inside = f"{backbone_of(student)}."
    outside = [name for name in own if not name.startswith(inside) and not name.endswith(COUNTER)]
    copied = [name for name in outside if name in theirs and own[name].shape == theirs[name].shape]
    if not copied:
        kinds = [type(detector.network).__name__ for detector in (student, teacher)]
        raise EyasError(
            f"nothing to inherit: outside of its backbone {inside[:-1]} the student, a {kinds[0]}, has no tensor of "
            f"the name and shape of one of the teacher's, a {kinds[1]}"
        )
    with torch.no_grad():
        for name in copied:
            own[name].copy_(theirs[name])
    kept = tuple(name for name in outside if name not in copied)
    return Inherited(tuple(copied), kept, sum(own[name].numel() for name in copied))
