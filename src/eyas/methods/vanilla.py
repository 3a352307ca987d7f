"""Vanilla distillation of detection outputs: the student's heads learn the teacher's outputs, right or wrong.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531), section 2: soft targets
at a temperature T, with gradients rescaled by T^2. Wang et al. (CVPR 2019) compare it with feature imitation on KITTI.
Boxes have no probabilities, so they use the squared difference of the deltas instead of the divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.losses import ratio
from eyas.types import View


def kl_softmax_rows(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` with p = softmax(logits / T) over the last dimension, (..., C) to (...).

    Arguments otherwise as for `kl_softmax`; the result has their type.
    """
    student = (student_logits / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.detach() / temperature).log_softmax(dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)


def kl_softmax(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` with p = softmax(logits / T), summed over rows (Hinton et al., section 2).

    Args:
        student_logits: (M, C).
        teacher_logits: (M, C), detached.
        temperature: T, above 0.

    Returns:
        A float32 scalar, at least 0. It is 0 if and only if the logits of each row differ by a constant.
    """
    return kl_softmax_rows(student_logits.float(), teacher_logits.float(), temperature).sum()


def kl_sigmoid(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` of binary outputs with p = sigmoid(logits / T), summed over rows and columns.

    Arguments as for `kl_softmax`. Returns a float32 scalar, at least 0; it is 0 if and only if the logits are equal.
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = teacher.neg().sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (yes + no).sum()


def squared_difference(student_deltas: Tensor, teacher_deltas: Tensor) -> Tensor:
    """``|R_s - R_t|^2`` summed over rows, a float32 scalar. Both are (P, 4) box deltas; the teacher's are detached."""
    return (student_deltas.float() - teacher_deltas.detach().float()).square().sum()


class Vanilla(OutputDistillation):
    """Vanilla distillation of the outputs of every head (Hinton et al., 2015).

    The class term is the divergence, summed over the rows of the student's own class loss and over classes. The box
    term is the squared difference of the deltas, summed over the rows of its box loss. Both are divided by the number
    that the detector divides its class loss by, and the heads are added up.

    Args:
        weight: factor of the whole loss, or auto.
        temperature: T of the class term, above 0.
        box_weight: factor of the box term; 0 distils only the classes.
        heads: names of the heads to distil; None for all of the student's.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher differ on a head.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        temperature: float = 1.0,
        box_weight: float = 1.0,
        heads: Sequence[str] | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "vanilla",
    ) -> None:
        super().__init__(name, weight, heads, schedule)
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.require(box_weight >= 0, f"box_weight cannot be negative, got {box_weight}")
        self.temperature = temperature
        self.box_weight = box_weight

    def term(self, pair: HeadPair, student: View) -> Tensor:
        divergence = kl_softmax if pair.student.activation == "softmax" else kl_sigmoid
        total = divergence(*pair.logits(), self.temperature)
        deltas = pair.deltas()
        if deltas is not None:
            total = total + self.box_weight * squared_difference(*deltas)
        return ratio(total, pair.divisor)
