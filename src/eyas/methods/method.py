"""The base class of every distillation method, its weight, the level pairs it works on, and counts over processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eyas.methods.schedule import ALWAYS, Schedule
from eyas.types import BranchesAt, EyasError, Level, Target, View

Reads = (
    Literal["heads", "queries", "student_proposals", "teacher_proposals", "teacher_queries", "teacher_scores"]
    | BranchesAt
)
"""What a method can read of a view besides feature maps."""
Need = Literal[
    "feature maps", "anchors", "boxes", "proposals",
    "heads", "teacher scores", "distributions", "queries", "equal classes",
]  # fmt: skip
"""What a method can need of detectors and data: ``anchors`` at the levels of the teacher, ``boxes`` of labels."""


@dataclass(frozen=True)
class LevelPair:
    """A student's feature level and the teacher's level that it is paired with, each with its tap name.

    ``rectified`` says that the teacher's map is never negative, like the output of a ReLU. ``scale`` is how many times
    larger the teacher sees the images. ``place`` is the index of the student's level in its detector's ``levels``, by
    which dense heads order their rows.
    """

    student_tap: str
    student: Level
    teacher_tap: str
    teacher: Level
    rectified: bool = False
    scale: float = 1.0
    place: int = 0

    @property
    def step(self) -> float:
        """The student's cells from one cell of the teacher to the next: 1 where a cell of both covers the same."""
        return self.teacher.stride / (self.scale * self.student.stride)


@dataclass(frozen=True)
class Auto:
    """An automatic weight, which holds the gradient ratio constant, see `eyas.distillation.weights`.

    Attributes:
        fraction: the gradient ratio: the norm of the method's gradient at the student's imitated features over the norm
            of the detection loss's gradient there, in (0, 1000]. docs/weight_rule.md has the measurements behind 3.
        warmup: batches after the start of the schedule in which only the adapters learn, not the student. A new adapter
            passes no gradient worth measuring. Batches with nothing to imitate do not count.
        every: batches between measurements, on average. Until ten batches with something to imitate have been measured,
            every batch is.

    Raises:
        EyasError: a value is out of range.
    """

    fraction: float = 3.0
    warmup: int = 10
    every: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1000:
            raise EyasError(f"the fraction of an automatic weight must be above 0, at most 1000, got {self.fraction}")
        if self.warmup < 0 or self.every < 1:
            raise EyasError(f"an automatic weight needs warmup >= 0 and every >= 1, got {self.warmup} and {self.every}")


Weight = float | Literal["auto"] | Auto
"""A number or an automatic weight; "auto" is ``Auto()``."""


class Method(nn.Module):
    """A distillation loss with its hyperparameters and its own trained layers (adapters), discarded after training.

    Args:
        name: key of the loss, unique within a `eyas.Distiller`.
        weight: the distiller multiplies the loss by it.
        schedule: when the loss counts, see `Schedule`.

    Attributes:
        reads: what the method reads besides feature maps. Only what some method reads is computed.
        needs: what the method cannot do without, in words, for `eyas methods`.
        heads: names of the student's heads that it compares, if it reads ``heads``; None for all.
        chosen: indices of the level pairs that it compares, known after `setup`; None for all.
        max_weight: the largest weight that makes sense, to which an automatic one is held.
        version: raise it when the same options select other cells, so that teacher caches are recomputed.
        is_set_up: whether a distiller has made its layers; it then belongs to that one.
        parts: the loss of the last batch by level or head, detached and without its weight; see `total`.

    Raises:
        EyasError: an option is out of range.
    """

    reads: frozenset[Reads] = frozenset()
    needs: tuple[Need, ...] = ("feature maps",)
    heads: Sequence[str] | None = None
    chosen: tuple[int, ...] | None = None
    version: int = 1

    def __init__(self, name: str, weight: Weight, schedule: Schedule = ALWAYS) -> None:
        super().__init__()
        self.name = name
        self.weight: float | Auto = Auto() if weight == "auto" else weight
        self.schedule = schedule
        self.is_set_up = False
        self.parts: Mapping[str, Tensor] = {}
        self.max_weight = math.inf
        if not isinstance(self.weight, Auto):
            is_number = isinstance(self.weight, int | float) and 0 <= self.weight < math.inf
            self.require(is_number, f'weight is a finite number from 0, "auto" or Auto(...), got {weight!r}')
        self.require(isinstance(schedule, Schedule), f"schedule is a Schedule(...), got {schedule!r}")

    def require(self, holds: bool, rule: str) -> None:
        """Raise an EyasError with the method's name and the rule unless it holds."""
        if not holds:
            raise EyasError(f"{type(self).__name__}: {rule}")

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        """Make the layers that depend on the level pairs, on the CPU.

        The distiller calls this once, before any optimiser exists, then moves the layers to the student's device. It
        isolates torch's default generator, so drawing from it here neither depends on nor changes the global state.
        """

    def fingerprint(self) -> dict[str, object]:
        """The options that select the teacher's vectors to imitate, in JSON types, for the teacher cache.

        Raises:
            EyasError: the method reads more than feature vectors, which is all that a cache holds.
        """
        raise EyasError(
            f"{type(self).__name__} looks at more of the teacher than feature vectors, which a cache does not hold: "
            "leave --cache out, or use methods on feature maps alone, such as FGFI and PKD"
        )

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        """One line for the user about the method on a batch, before training starts; may be empty."""
        return ""

    def caution(self, teacher: View, targets: Sequence[Target]) -> str:
        """A warning about what the method would do with a batch, before training starts; may be empty."""
        return ""

    def count(self, student: View, teacher: View, targets: Sequence[Target]) -> int | None:
        """The weight of a batch among those of its optimiser step, known in this process before the networks run.

        Where it is what the loss is averaged over, a step that accumulates gradients has the loss of one large batch,
        see `eyas.Distiller.plan_step`. None, the default, weighs all batches alike. The views have maps of the right
        shapes and no values.
        """
        return None

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The loss of one batch, a float32 scalar without its weight. It has a gradient path even if it is zero."""
        raise NotImplementedError

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The sum of a loss's parts, scalars by the name of their level or head. The log shows their shares."""
        self.parts = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum()
