"""What every distillation method is: the base class, and what it is told of the pair it works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from eyas.types import Level, Target, View


@dataclass(frozen=True)
class LevelPair:
    """A student's feature level and the teacher's level that it imitates.

    Attributes:
        student_tap: tap name in the student's network.
        student: the student's level.
        teacher_tap: tap name in the teacher's network.
        teacher: the teacher's level.
        rectified: the teacher's map is never negative (the output of a ReLU).
    """

    student_tap: str
    student: Level
    teacher_tap: str
    teacher: Level
    rectified: bool = False


class Method(nn.Module):
    """A distillation loss with its hyperparameters and its own trained layers (adapters), which training throws away.

    Attributes:
        name: the key of its loss term, unique in a `eyas.Distiller`.
        weight: factor of its loss, already inside what `forward` returns.
        start_step: the number of training batches before it counts, which are optimiser steps unless gradients are
            accumulated; until then the teacher is not run for it.
    """

    name: str
    weight: float
    start_step: int

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        """Make the layers that depend on the pairs, on the CPU.

        The distiller calls it once, before any optimiser exists, and moves them to the student's device. Random numbers
        drawn from torch's default generator are the distiller's own: they neither follow nor disturb the global ones.
        """
        raise NotImplementedError

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        """What a user should see of the method on a batch before training starts; empty when there is nothing."""
        return ""

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The weighted loss terms of one batch, scalars by name."""
        raise NotImplementedError
