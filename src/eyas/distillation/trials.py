"""Which methods work with two detectors, and what a step costs with each: every one is tried on a batch of noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.distillation.distiller import Distiller
from eyas.distillation.pairing import Pairing
from eyas.distillation.teachers import Teacher
from eyas.methods.method import Method
from eyas.nn.eval_mode import restored_afterwards
from eyas.types import Detector, EyasError, Size, Target

REPEATS = 3
"""Timed steps of each method."""


@dataclass(frozen=True)
class Trial:
    """What became of a method on two detectors.

    Attributes:
        reason: why it does not apply; None where it does.
        cost: seconds of a step with it over those of the student's step alone, the teacher's pass included; None where
            it does not apply or was not timed.
    """

    reason: str | None = None
    cost: float | None = None


def noise_batch(size: Size) -> tuple[Tensor, list[Target]]:
    """Two images of noise, each with one object of class 0 in its middle, half as wide and high as the image."""
    height, width = size
    boxes = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    target: Target = {"boxes": boxes, "labels": torch.tensor([0])}
    return torch.rand(2, 3, height, width), [target, target]


def try_methods(
    student: Detector,
    teacher: Detector | Teacher,
    methods: Mapping[str, Callable[[], Method]],
    batch: tuple[Tensor, Sequence[Target]],
    *,
    pairs: Pairing = None,
    scale: float = 1.0,
    check: Callable[[Method], None] | None = None,
    timed: bool = True,
) -> dict[str, Trial]:
    """Try each method alone on one batch, as the first step of a training would use it.

    The detectors keep their weights, their BatchNorm statistics and their random state.

    Args:
        student, teacher, pairs, scale: as for `eyas.Distiller`.
        methods: name -> makes the method.
        batch: images and targets, as the teacher sees them.
        check: raises EyasError for a method that is refused for another reason, such as the data's classes.
        timed: also measure the costs.

    Returns:
        By the names of the methods, in their order.
    """
    trials: dict[str, Trial] = {}
    alone = Distiller(student, teacher, pairs=pairs, teacher_scale=scale)
    for name, make in methods.items():
        try:
            method = make()
            if check is not None:
                check(method)
            Distiller(student, teacher, method, pairs=pairs, teacher_scale=scale).try_out(*batch)
        except EyasError as error:
            trials[name] = Trial(reason=str(error))
            continue
        if not timed:
            trials[name] = Trial()
            continue
        # An automatic weight would leave the student out of its first steps.
        method = make()
        method.weight = 1.0
        distiller = Distiller(student, teacher, method, pairs=pairs, teacher_scale=scale)
        trials[name] = Trial(cost=relative_cost(distiller, alone, batch))
    return trials


def relative_cost(distiller: Distiller, alone: Distiller, batch: tuple[Tensor, Sequence[Target]]) -> float:
    """Seconds of a forward and a backward pass of one distiller over those of another; no parameter is changed.

    Both run in turns, so that what disturbs the machine meets both; the median of their ratios counts.
    """
    ratios = []
    with torch.enable_grad(), restored_afterwards(distiller, batch[0].device):
        for each in (distiller, alone):
            each.train()
            _step(each, batch)  # the first one is slower
        for _ in range(REPEATS):
            ratios.append(_step(distiller, batch) / _step(alone, batch))
    distiller.zero_grad(set_to_none=True)
    return statistics.median(ratios)


def _step(distiller: Distiller, batch: tuple[Tensor, Sequence[Target]]) -> float:
    start = time.perf_counter()
    torch.stack([loss.float() for loss in distiller(*batch).values()]).sum().backward()
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
