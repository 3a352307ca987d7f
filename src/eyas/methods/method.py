"""What every distillation method is: the base class, its weight, and what it is told of the pair it works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, distributed, nn

from eyas.types import EyasError, Level, Target, View

Reads = Literal["heads", "student_proposals", "teacher_proposals"]


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


@dataclass(frozen=True)
class Auto:
    """A weight that follows the gradients: see `eyas.distillation.weights`.

    Attributes:
        fraction: the norm of the method's gradient at the student's imitated features over that of the detection loss.
        warmup: batches, after the method's ``start_step``, in which only its adapters learn and the student does not
            feel it. An adapter that has just been made passes no gradient worth measuring.
        every: batches from one measurement to the next, after the first ten, which are all measured.
    """

    fraction: float = 1.0
    warmup: int = 10
    every: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1000:
            raise EyasError(f"the fraction of an automatic weight must be above 0, at most 1000, got {self.fraction}")
        if self.warmup < 0 or self.every < 1:
            raise EyasError(f"an automatic weight needs warmup >= 0 and every >= 1, got {self.warmup} and {self.every}")


Weight = float | Literal["auto"] | Auto
"""A number, or a weight that follows the gradients; "auto" is ``Auto()``."""


class Method(nn.Module):
    """A distillation loss with its hyperparameters and its own trained layers (adapters), which training throws away.

    Args:
        name: the key of its loss term, unique in a `eyas.Distiller`.
        weight: factor that the distiller gives its loss.
        start_step: the number of training batches before it counts, which are optimiser steps unless gradients are
            accumulated; until then the teacher is not run for it.

    Attributes:
        reads: what it looks at besides feature maps. Only what some method reads is computed.
        version: counts up when the same options choose other cells, so that a teacher cache is computed anew.

    Raises:
        EyasError: an option outside its range.
    """

    reads: frozenset[Reads] = frozenset()
    version: int = 1

    def __init__(self, name: str, weight: Weight, start_step: int = 0) -> None:
        super().__init__()
        self.name = name
        self.weight: float | Auto = Auto() if weight == "auto" else weight
        self.start_step = start_step
        if not isinstance(self.weight, Auto):
            self.require(0 <= self.weight < math.inf, f"weight cannot be negative or infinite, got {weight}")
        self.require(start_step >= 0, f"start_step cannot be negative, got {start_step}")

    def require(self, holds: bool, rule: str) -> None:
        """Raises EyasError with the rule, under the method's name, when it does not hold."""
        if not holds:
            raise EyasError(f"{type(self).__name__}: {rule}")

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        """Make the layers that depend on the pairs, on the CPU.

        The distiller calls it once, before any optimiser exists, and moves them to the student's device. Random numbers
        drawn from torch's default generator are the distiller's own: they neither follow nor disturb the global ones.
        """

    def fingerprint(self) -> dict[str, object]:
        """The options that decide which of the teacher's vectors it imitates, in JSON's types, for a teacher cache.

        Raises:
            EyasError: what it looks at is more than a cache of feature vectors holds.
        """
        raise EyasError(
            f"{type(self).__name__} looks at more of the teacher than feature vectors, and no cache holds that: leave "
            "--cache out, or take methods that imitate features (FGFI, FitNets, BoxMask)"
        )

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        """What a user should see of the method on a batch before training starts; empty when there is nothing."""
        return ""

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The loss of one batch, a float32 scalar, without its weight. It has a gradient path even where it is zero."""
        raise NotImplementedError


def global_count(count: Tensor) -> Tensor:
    """A count over the batch of all processes, divided by their number; a float32 scalar.

    Gradients are averaged over processes, not summed: the average over R processes of ``S_r / (N / R)`` is
    ``sum_r S_r / N``, the loss of the whole batch.
    """
    return mean_over_processes(count.float())


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over all processes, which all must ask for; itself where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def ratio(total: Tensor, count: Tensor | float) -> Tensor:
    """``total / count``, and 0 where both are: any positive divisor does where nothing is counted."""
    count = torch.as_tensor(count, device=total.device).float()
    return total / count.clamp(min=torch.finfo(torch.float32).eps)
