"""The detection loss against the imitation terms on one batch, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from eyas.distillation.gradients import gradient_norm
from eyas.methods.method import Auto, Method
from eyas.types import Target, View


@dataclass(frozen=True)
class Balance:
    """Losses of one batch and the norms of their gradients at the student's imitated features.

    Attributes:
        detection: sum of the student's own losses.
        detection_gradient: method name -> the norm of its gradient at the levels that the method compares.
        imitation: method name -> loss times its weight; without a weight where that is automatic.
        imitation_gradient: method name -> norm.
        fractions: method name -> the fraction that an automatic weight will hold.
        limits: method name -> the largest value of an automatic weight, where there is one.
        notes: method name -> the method's note about the batch.
        cautions: method name -> the method's warning about the batch, where there is one.
        parts: method name -> its loss by level or head, absolute and without a weight.
    """

    detection: float
    detection_gradient: dict[str, float]
    imitation: dict[str, float]
    imitation_gradient: dict[str, float]
    fractions: dict[str, float]
    limits: dict[str, float]
    notes: dict[str, str]
    cautions: dict[str, str]
    parts: dict[str, dict[str, float]]

    def gradient_ratio(self) -> dict[str, float]:
        """Imitation gradient over detection gradient, by method name; infinite where only the latter is 0."""
        return {
            name: norm / detection if (detection := self.detection_gradient[name]) else (math.inf if norm else 0.0)
            for name, norm in self.imitation_gradient.items()
        }


def measure_balance(
    methods: Sequence[Method], student: View, teacher: View | None, targets: Sequence[Target]
) -> Balance:
    """Compare the methods' losses with the detection loss; see `Balance`."""
    losses, gradients, detection = {}, {}, {}
    measured = cache(partial(detection_gradient, student))
    for method in methods:
        assert teacher is not None
        loss = method(student, teacher, targets) * (1 if isinstance(method.weight, Auto) else method.weight)
        compared = compared_levels(method, student)
        losses[method.name], gradients[method.name] = loss, gradient_at(loss, student, compared)
        detection[method.name] = measured(compared)
    return Balance(
        detection=float(detection_loss(student).detach()),
        detection_gradient={name: float(norm) for name, norm in detection.items()},
        imitation={name: float(loss.detach()) for name, loss in losses.items()},
        imitation_gradient={name: float(norm) for name, norm in gradients.items()},
        fractions={method.name: method.weight.fraction for method in methods if isinstance(method.weight, Auto)},
        limits={m.name: m.max_weight for m in methods if isinstance(m.weight, Auto) and m.max_weight < math.inf},
        notes={method.name: method.describe(teacher, targets) for method in methods if teacher is not None},
        cautions={m.name: text for m in methods if teacher is not None and (text := m.caution(teacher, targets))},
        parts={m.name: {part: float(loss.abs()) for part, loss in m.parts.items()} for m in methods},
    )


def detection_loss(student: View) -> Tensor:
    """The sum of the student's own losses, a scalar."""
    return torch.stack(list(student.losses.values())).sum()


def compared_levels(method: Method, student: View) -> tuple[int, ...]:
    """The indices of the level pairs that a method compares."""
    return tuple(range(len(student.features))) if method.chosen is None else method.chosen


def gradient_at(loss: Tensor, student: View, levels: Sequence[int]) -> Tensor:
    """The norm of a loss's gradient at the student's features of these level pairs, a scalar."""
    return gradient_norm(loss, [student.features[index] for index in levels])


def detection_gradient(student: View, levels: Sequence[int]) -> Tensor:
    """The norm of the detection loss's gradient at these levels."""
    return gradient_at(detection_loss(student), student, levels)
