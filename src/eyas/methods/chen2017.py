"""Soft labels for the class loss and a teacher-bounded box loss, on the detector's heads.

Chen, Choi, Yu, Han, Chandraker, "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017:
``L_cls = mu L_hard + (1 - mu) L_soft`` with ``L_soft = -sum_c w_c p_t log p_s`` (section 3.2, equations 2 and 3) and
``L_reg = L_smoothL1 + nu L_b`` (section 3.3), for the proposal network and for the classifier alike. The paper's third
part, the hint on the feature map, is `eyas.methods.fitnets.FitNets`: the whole method is the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation
from eyas.types import EyasError, View


def soft_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    activation: Literal["softmax", "sigmoid"],
    background: int | None = None,
    background_weight: float = 1.5,
) -> Tensor:
    """L_soft of equation 3, summed over rows: the cross-entropy of the student under the teacher's probabilities.

    Args:
        student_logits: (M, C).
        teacher_logits: (M, C), a constant.
        activation: over the C columns, or of each.
        background: the column of the background in a softmax; None where it has none.
        background_weight: w of the background, where 1 is that of the other classes. In a softmax it falls on that
            column's term. A sigmoid is the softmax of a column's logit against 0, so each column is a question of two
            classes, and the weight falls on the answer "no": ``-(p_t log p_s + w (1 - p_t) log(1 - p_s))``. With one
            column (objectness) that is equation 3 itself; with several, "no" is the background and the other classes.

    Returns:
        A float32 scalar. It is not 0 where both agree: there it is the teacher's (weighted) entropy.
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
    """L_b of section 3.3, summed over rows: the student's squared error, unless the teacher's exceeds it by a margin.

    Args:
        student_deltas: (P, 4).
        teacher_deltas: (P, 4); it only decides which rows count.
        targets: (P, 4), the deltas of the ground truth.
        margin: m, in squared deltas. A row counts when ``|R_s - y|^2 + m > |R_t - y|^2``, strictly.

    Returns:
        A float32 scalar.
    """
    targets = targets.detach().float()
    student = (student_deltas.float() - targets).square().sum(dim=1)
    teacher = (teacher_deltas.detach().float() - targets).square().sum(dim=1)
    return (student * (student.detach() + margin > teacher)).sum()


class Chen2017(OutputDistillation):
    """The heads' part of Chen et al. (NIPS 2017); add `eyas.FitNets` for the hint.

    At weight 1 the class loss of each head becomes ``mu L_hard + (1 - mu) L_soft``, and its box loss gains ``nu L_b``.
    The detector's own class loss L_hard is in the total already, so this term is
    ``(1 - mu) (L_soft - L_hard) + nu L_b``, which may be below 0. Both are summed over the rows that the detector's own
    losses count, and divided by what it divides the sum of its class loss by.

    Args:
        weight: of the term. Of the hard labels ``1 - weight (1 - mu)`` is left.
        mu: share of the hard labels in the class loss, in [0, 1].
        nu: weight of the bounded box loss.
        margin: m of `bounded_regression_loss`, in squared box deltas.
        background_weight: w of the background in equation 3, see `soft_label_loss`.
        heads: names of the heads to distil; None for all that the student has.
        start_step: training batches before the term counts.
        name: the key of the loss term.

    Raises:
        EyasError: an option outside its range; or, from the first batch, heads on which student and teacher differ.
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
        start_step: int = 0,
        name: str = "chen2017",
    ) -> None:
        super().__init__(name, weight, heads, start_step)
        self.require(0 <= mu <= 1, f"mu must lie in [0, 1], got {mu}")
        self.require(nu >= 0, f"nu cannot be negative, got {nu}")
        self.require(margin >= 0, f"margin cannot be negative, got {margin}")
        self.require(background_weight >= 0, f"background_weight cannot be negative, got {background_weight}")
        if isinstance(self.weight, float | int):
            self.require(
                self.weight * (1 - mu) <= 1,
                f"weight (1 - mu) is taken from the hard labels and cannot exceed 1, got {self.weight} and {mu}",
            )
        self.mu = mu
        self.nu = nu
        self.margin = margin
        self.background_weight = background_weight

    def term(self, pair: HeadPair, student: View) -> Tensor:
        soft = soft_label_loss(*pair.logits(), pair.student.activation, pair.student.background, self.background_weight)
        term = (1 - self.mu) * (pair.average(soft) - _hard_loss(pair, student))
        deltas = pair.deltas()
        if deltas is None:
            return term
        return term + self.nu * pair.average(bounded_regression_loss(*deltas, pair.matched.box_targets, self.margin))


def _hard_loss(pair: HeadPair, student: View) -> Tensor:
    """The detector's own class loss of a head."""
    name = pair.matched.class_loss
    if name not in student.losses:
        raise EyasError(f"head {pair.name}: the student has no loss {name}, only {', '.join(student.losses) or 'none'}")
    return student.losses[name].float()
