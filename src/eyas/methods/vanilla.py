"""Vanilla distillation of detection outputs: the student's heads learn the teacher's answers, whatever the truth.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531), section 2: soft targets
at a temperature T, their gradients restored by T^2. Wang et al. (CVPR 2019) compare it with feature imitation on KITTI.
For boxes, which have no probabilities, the squared difference of the deltas takes the place of the divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation
from eyas.types import View


def kl_softmax(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` with p = softmax(logits / T), summed over rows.

    Args:
        student_logits: (M, C).
        teacher_logits: (M, C), a constant.
        temperature: T, above 0.

    Returns:
        A float32 scalar, 0 if and only if in each row the logits differ by a constant.
    """
    student = (student_logits.float() / temperature).log_softmax(dim=1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum()


def kl_sigmoid(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL`` of two-way answers, p = sigmoid(logits / T), summed over rows and columns.

    Args and result are those of `kl_softmax`; 0 if and only if the logits are equal.
    """
    student, teacher = student_logits.float() / temperature, teacher_logits.detach().float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = teacher.neg().sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (yes + no).sum()


def squared_difference(student_deltas: Tensor, teacher_deltas: Tensor) -> Tensor:
    """``|R_s - R_t|^2`` summed over rows: both (P, 4), the teacher's a constant, to a float32 scalar."""
    return (student_deltas.float() - teacher_deltas.detach().float()).square().sum()


class Vanilla(OutputDistillation):
    """Vanilla distillation of the outputs of every head.

    The class term is over the rows of the student's own class loss, the box term over those of its box loss. Both are
    divided by what the detector divides the sum of its class loss by.

    Args:
        weight: of the term.
        temperature: T of the class term. 1 by default, which Chen et al. (NIPS 2017) are said to have found best.
        box_weight: of the box term within the whole; 0 distils the classes alone.
        heads: names of the heads to distil; None for all that the student has.
        start_step: training batches before the term counts.
        name: the key of the loss term.

    Raises:
        EyasError: an option outside its range; or, from the first batch, heads on which student and teacher differ.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        temperature: float = 1.0,
        box_weight: float = 1.0,
        heads: Sequence[str] | None = None,
        start_step: int = 0,
        name: str = "vanilla",
    ) -> None:
        super().__init__(name, weight, heads, start_step)
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
        return pair.average(total)
