"""When the loss of a method counts during a training."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.types import EyasError


@dataclass(frozen=True)
class Schedule:
    """The factor of a method's loss over the batches of a training: 0, a linear ramp, 1, and 0 again.

    Batches are optimiser steps unless gradients are accumulated.

    Attributes:
        start_step: training batches before the loss counts; until then the teacher does not run for it. The authors of
            FGFI have 400, of tens of thousands.
        ramp_steps: batches after ``start_step`` over which the factor rises linearly to 1. FRS has 500, ICD 1,000.
        stop: the share of the training after which the loss no longer counts, in (0, 1]. RTMDet stops at 280 of 300
            epochs, 0.93.

    Raises:
        EyasError: a value is out of range.
    """

    start_step: int = 0
    ramp_steps: int = 0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if self.start_step < 0:
            raise EyasError(f"schedule: start_step cannot be negative, got {self.start_step}")
        if self.ramp_steps < 0:
            raise EyasError(f"schedule: ramp_steps cannot be negative, got {self.ramp_steps}")
        if not 0 < self.stop <= 1:
            raise EyasError(f"schedule: stop is a share of the training, above 0 and at most 1, got {self.stop}")

    def factor(self, batch: int, batches: int | None) -> float:
        """The factor in a batch, counted from 0, of a training of so many; in [0, 1].

        Raises:
            EyasError: the loss is to stop early, and nobody has said how long the training is.
        """
        if batch < self.start_step or batch >= self.last(batches):
            return 0.0
        return min(1.0, (batch - self.start_step + 1) / (self.ramp_steps + 1))

    def last(self, batches: int | None) -> float:
        """The batch, from 0, in which the loss no longer counts; infinite without an early stop. Errors as `factor`."""
        if self.stop == 1:
            return float("inf")
        if batches is None:
            raise EyasError(
                "schedule: stop is a share of the training, whose length is not known: set Distiller.total_batches"
            )
        return round(self.stop * batches)


ALWAYS = Schedule()
"""The loss counts from the first batch to the last."""
