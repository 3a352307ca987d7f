"""When the loss of a method counts during a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eyas.types import EyasError


@dataclass(frozen=True)
class Schedule:
    """The factor of a method's loss over the batches of a training: 0, a linear ramp, 1 or a fall from it, and 0 again.

    Batches are optimiser steps unless gradients are accumulated.

    Attributes:
        start_step: training batches before the loss counts; until then the teacher does not run for it. The authors of
            FGFI have 400, of tens of thousands.
        ramp_steps: batches after ``start_step`` over which the factor rises linearly to 1. FRS has 500, ICD 1,000.
        stop: the share of the training after which the loss no longer counts, in (0, 1]. RTMDet stops at 280 of 300
            epochs, 0.93.
        end: the factor at the end of the training, in [0, 1], to which it falls from 1 along half a cosine over all
            batches; a ramp multiplies it. YOLOv6 has 0.01.

    Raises:
        EyasError: a value is out of range.
    """

    start_step: int = 0
    ramp_steps: int = 0
    stop: float = 1.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name, steps in (("start_step", self.start_step), ("ramp_steps", self.ramp_steps)):
            if not isinstance(steps, int) or steps < 0:
                raise EyasError(f"schedule: {name} is a whole number of batches from 0, got {steps!r}")
        if not 0 < self.stop <= 1:
            raise EyasError(f"schedule: stop is a share of the training, above 0 and at most 1, got {self.stop}")
        if not 0 <= self.end <= 1:
            raise EyasError(f"schedule: end is a factor from 0 to 1, got {self.end}")

    def factor(self, batch: int, batches: int | None) -> float:
        """The factor in a batch, counted from 0, of a training of so many; in [0, 1].

        Raises:
            EyasError: the loss is to fall or to stop early, and nobody has said how long the training is.
        """
        last, fallen = self.last(batches), self._fallen(batch, batches)  # in the first batch, too: both may refuse
        if not self.start_step <= batch < last:
            return 0.0
        return fallen * min(1.0, (batch - self.start_step + 1) / (self.ramp_steps + 1))

    def last(self, batches: int | None) -> float:
        """The batch, from 0, in which the loss no longer counts; infinite without an early stop. Errors as `factor`."""
        return float("inf") if self.stop == 1 else round(self.stop * _known(batches, "stop"))

    def _fallen(self, batch: int, batches: int | None) -> float:
        if self.end == 1:
            return 1.0
        done = min(1.0, batch / _known(batches, "end"))
        return 1 - (1 - self.end) * (1 - math.cos(math.pi * done)) / 2


def _known(batches: int | None, option: str) -> int:
    if batches is None or batches < 1:
        raise EyasError(
            f"schedule: {option} needs the length of the training, in batches: set Distiller.total_batches, which is "
            f"{batches}"
        )
    return batches


ALWAYS = Schedule()
"""The loss counts from the first batch to the last."""
