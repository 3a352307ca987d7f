"""What a trainer trains: a module that returns every loss of a batch by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from eyas.nn.failures import running
from eyas.types import Detector, Target


class LossModule(Protocol):
    """`eyas.Distiller` or `Baseline`: a module that holds the student and computes its losses."""

    student: Detector

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every loss of a batch, scalars by name; the trainer sums them."""

    def plan_step(self, batches: Sequence[tuple[Tensor, Sequence[Target]]]) -> None:
        """Announce the batches whose gradients one step accumulates, before the first of them."""

    def weights(self) -> dict[str, float]:
        """The weights of distillation terms as they stand, by name, for the log."""

    def gradient_ratios(self) -> dict[str, float]:
        """The gradients of distillation terms over that of the detection loss, by name, as far as they are known."""

    def last_gradient_ratios(self) -> dict[str, float]:
        """The same in the last batch that was measured; `gradient_ratios` are running means."""

    def take_parts(self) -> dict[str, dict[str, Tensor]]:
        """The losses of distillation terms by level or head, by name, summed since they were last taken."""


class Baseline(nn.Module):
    """A student trained by its own losses alone: no distillation term has a weight or a ratio."""

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        with running("the student", images):
            return dict(self.student.losses(images, targets))

    def plan_step(self, batches: Sequence[tuple[Tensor, Sequence[Target]]]) -> None:
        """Nothing: a detector's own losses average over each batch."""

    def weights(self) -> dict[str, float]:
        return {}

    def gradient_ratios(self) -> dict[str, float]:
        return {}

    def last_gradient_ratios(self) -> dict[str, float]:
        return {}

    def take_parts(self) -> dict[str, dict[str, Tensor]]:
        return {}
