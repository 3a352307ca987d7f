"""Soft labels for the class loss and a teacher-bounded box loss, on the detector's heads.

Chen, Choi, Yu, Han, Chandraker, "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017:
``L_cls = mu L_hard + (1 - mu) L_soft`` with ``L_soft = -sum_c w_c p_t log p_s`` (section 3.2, equations 2 and 3) and
``L_reg = L_smoothL1 + nu L_b`` (section 3.3), for both the proposal network and the classifier. The paper's third part,
the hint on the feature map, is `eyas.methods.fitnets.FitNets`; use both for the whole method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Auto, Weight
from eyas.methods.outputs import HeadPair, OutputDistillation
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.losses import ratio
from eyas.types import EyasError, View


def soft_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    activation: Literal["softmax", "sigmoid"],
    background: int | None = None,
    background_weight: float = 1.5,
) -> Tensor:
    """L_soft of Chen et al., equation 3, summed over rows: the cross-entropy of the student under the teacher.

    A sigmoid is the softmax of a column's logit against 0, so each column is a two-class problem whose class "no" has
    the background's weight: ``-(p_t log p_s + w (1 - p_t) log(1 - p_s))``. With one column (objectness) this is
    equation 3 itself; with several, "no" stands for the background and the other classes.

    Args:
        student_logits: (M, C).
        teacher_logits: (M, C), detached.
        activation: "softmax" over the C columns, or "sigmoid" on each.
        background: the background's column in a softmax; None if there is none.
        background_weight: w of the background, at least 0; the other classes have weight 1.

    Returns:
        A float32 scalar, at least 0. Where both agree it is the teacher's (weighted) entropy, not 0.
    """
    student, teacher = student_logits.float(), teacher_logits.detach().float()
    if activation == "sigmoid":
        no = teacher.neg().sigmoid() * F.logsigmoid(-student)  # 1 - p is sigmoid(-logit), without the cancellation
        return -(teacher.sigmoid() * F.logsigmoid(student) + background_weight * no).sum()
    weights = student.new_ones(student.shape[1])
    if background is not None:
        weights[background] = background_weight
    return -(weights * teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum()


def bounded_regression_loss(
    student_deltas: Tensor, teacher_deltas: Tensor, targets: Tensor, margin: float = 0.0
) -> Tensor:
    """L_b of Chen et al., section 3.3, summed over rows: the student's squared error unless it beats the teacher's.

    A row counts if ``|R_s - y|^2 + m > |R_t - y|^2``, strictly; otherwise it contributes 0.

    Args:
        student_deltas: (P, 4), R_s.
        teacher_deltas: (P, 4), R_t, which only selects the rows that count.
        targets: (P, 4), y, the deltas of the ground truth.
        margin: m, in squared deltas, at least 0.

    Returns:
        A float32 scalar, at least 0.
    """
    targets = targets.detach().float()
    student = (student_deltas.float() - targets).square().sum(dim=1)
    teacher = (teacher_deltas.detach().float() - targets).square().sum(dim=1)
    return (student * (student.detach() + margin > teacher)).sum()


class Chen2017(OutputDistillation):
    """The losses on heads of Chen et al. (NIPS 2017); add `eyas.FitNets` for their hint.

    At weight 1 the class loss of each head becomes ``mu L_hard + (1 - mu) L_soft``, and its box loss gains ``nu L_b``.
    The total already contains L_hard, the detector's own class loss, so the loss of this method is
    ``(1 - mu) (L_soft - L_hard) + nu L_b``, which can be negative. L_soft and L_b are summed over the rows that the
    detector's own losses count and divided by the number that it divides its class loss by; the heads are added up.

    Args:
        weight: factor of the whole loss, or auto. The hard labels keep the share ``1 - weight (1 - mu)``, so it is at
            most 1 / (1 - mu): a larger number is refused, an automatic weight stops there.
        mu: share of the hard labels in the class loss, in [0, 1].
        nu: factor of the bounded box loss L_b.
        margin: m in L_b, in squared box deltas: a box counts unless the student beats the teacher by this margin.
        background_weight: factor of the background in L_soft; the other classes have 1.
        heads: names of the heads to distil; None for all of the student's.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher differ on a head.
    """

    def __init__(
        self,
        weight: Weight = 1.0,
        *,
        mu: float = 0.5,
        nu: float = 0.5,
        margin: float = 0.0,
        background_weight: float = 1.5,
        heads: Sequence[str] | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "chen2017",
    ) -> None:
        super().__init__(name, weight, heads, schedule)
        self.require(0 <= mu <= 1, f"mu must lie in [0, 1], got {mu}")
        self.require(nu >= 0, f"nu cannot be negative, got {nu}")
        self.require(margin >= 0, f"margin cannot be negative, got {margin}")
        self.require(background_weight >= 0, f"background_weight cannot be negative, got {background_weight}")
        self.max_weight = 1 / (1 - mu) if mu < 1 else math.inf
        rule = "weight (1 - mu) is taken from the hard labels and cannot exceed 1"
        holds = isinstance(self.weight, Auto) or self.weight <= self.max_weight
        self.require(holds, f"{rule}, got weight {self.weight}, mu {mu}")
        self.mu = mu
        self.nu = nu
        self.margin = margin
        self.background_weight = background_weight

    def term(self, pair: HeadPair, student: View) -> Tensor:
        hard = pair.matched.class_loss
        if hard not in student.losses:
            has = ", ".join(student.losses) or "none"
            raise EyasError(f"head {pair.name}: the student has no loss {hard}, only {has}")
        soft = soft_label_loss(*pair.logits(), pair.student.activation, pair.student.background, self.background_weight)
        term = (1 - self.mu) * (ratio(soft, pair.divisor) - student.losses[hard].float())
        deltas = pair.deltas()
        if deltas is None:
            return term
        bounded = bounded_regression_loss(*deltas, pair.matched.box_targets, self.margin)
        return term + self.nu * ratio(bounded, pair.divisor)
