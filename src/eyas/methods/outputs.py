"""Student and teacher outputs, paired head by head: the base class of the methods that distil detection outputs.

The teacher scores the student's boxes, so row i of both is about the same box. The student detector's own rule selects
the rows that count and the divisor of their sum, so a soft loss has the scale of the hard loss next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eyas.methods.method import Method, Need, Reads, Weight
from eyas.methods.schedule import Schedule
from eyas.nn.processes import count_per_process
from eyas.ops.losses import ratio, soft_bce
from eyas.types import EyasError, HeadOutput, MatchedAnchors, Target, View

CODING = "box coding"


@dataclass(frozen=True)
class HeadPair:
    """The outputs of one head of both detectors for the student's boxes; the student's are from a training pass.

    Attributes:
        matched: the rows that the student's own losses count.
        divisor: the number that the detector divides its class loss by, a scalar averaged over processes.
    """

    name: str
    student: HeadOutput
    teacher: HeadOutput
    matched: MatchedAnchors
    divisor: Tensor

    def logits(self) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's logits in the rows of the class loss, (M, C) float32 each."""
        rows = self.matched.rows
        return self.student.logits[rows].float(), self.teacher.logits[rows].float()

    def binary_logits(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's logits of each class by itself in rows (n,) int64: (n, classes) float32 each.

        With a softmax they are the log-odds of each class against all other columns; the background is left out.
        """
        student, teacher = (
            binary_logits(head.logits[rows].float(), head.activation, head.background)
            for head in (self.student, self.teacher)
        )
        return student, teacher

    def box_rows(self) -> tuple[Tensor, Tensor] | None:
        """The rows and slots in which boxes are compared, (n,) int64 each; None where the heads predict none.

        They are the rows of the class loss; where the head has a box for each class, those that its box loss trains.
        """
        if self.student.deltas is None or self.teacher.deltas is None:
            return None
        if self.student.deltas.shape[1] > 1:
            return self.matched.positives, self.matched.slots
        return self.matched.rows, torch.zeros_like(self.matched.rows)

    def box_losses(self, where: tuple[Tensor, Tensor], loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A loss of the decoded boxes in rows and slots, (n,) each: (n,) float32.

        It is 0 where the teacher's box is less than a pixel wide or high. Such a box says nothing, and the gradient of
        an overlap grows with the inverse of the side.
        """
        student, teacher = self.student.decode(*where), self.teacher.decode(*where).detach()
        real = (teacher[:, 2:] - teacher[:, :2]).amin(dim=1) >= 1
        return torch.where(real, loss(student, teacher), 0.0)

    def deltas(self) -> tuple[Tensor, Tensor] | None:
        """The box deltas of both in the rows and slots of the box loss, (P, 4) float32 each; None if there are none."""
        if self.student.deltas is None or self.teacher.deltas is None:
            return None
        where = (self.matched.positives, self.matched.slots)
        return self.student.deltas[where].float(), self.teacher.deltas[where].float()


class OutputDistillation(Method):
    """Base class of the methods that compare head outputs. The loss is the sum over heads of a subclass's `term`.

    ``heads`` are the names of the heads to distil; None for all of the student's. A method that ``decodes`` compares
    boxes and not deltas, whose coding may differ.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher differ on a head.
    """

    reads: frozenset[Reads] = frozenset({"heads"})
    needs: tuple[Need, ...] = ("heads", "equal classes")
    decodes = False

    def __init__(self, name: str, weight: Weight, heads: Sequence[str] | None, schedule: Schedule) -> None:
        super().__init__(name, weight, schedule)
        self.require(heads is None or len(heads) > 0, "heads must name at least one head; leave it out to distil all")
        self.heads = heads

    def term(self, pair: HeadPair, student: View) -> Tensor:
        """The loss of one head, a float32 scalar."""
        raise NotImplementedError

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        pairs = pair_heads(student, teacher, self.heads, decodes=self.decodes)
        return self.total({pair.name: self.term(pair, student) for pair in pairs})


def classes_and_boxes(
    pair: HeadPair,
    class_weight: float,
    box_weight: float,
    beta: float,
    box_loss: Callable[[Tensor, Tensor], Tensor],
    box_factor: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A soft class loss and a loss of decoded boxes, summed over the rows of both and over the detector's divisor.

    Args:
        pair: the head's outputs.
        class_weight: of `soft_bce` of each class by itself.
        box_weight: of the box loss.
        beta: exponent of `soft_bce`.
        box_loss: of two sets of boxes (n, 4), one number each.
        box_factor: from the student's and the teacher's class probabilities in the rows of the boxes, (n, classes)
            each without gradients, to a factor of each box.

    Returns:
        A float32 scalar.
    """
    total = class_weight * soft_bce(*pair.binary_logits(pair.matched.rows), beta).sum()
    where = pair.box_rows()
    if where is not None:
        factors = box_factor(*(logits.detach().sigmoid() for logits in pair.binary_logits(where[0])))
        total = total + box_weight * (factors * pair.box_losses(where, box_loss)).sum()
    return ratio(total, pair.divisor)


def binary_logits(logits: Tensor, activation: Literal["softmax", "sigmoid"], background: int | None) -> Tensor:
    """Logits whose sigmoids are the class probabilities: (n, C) to (n, classes), without the background.

    With a softmax they are log(p / (1 - p)), which stays finite where p rounds to 1.
    """
    if activation == "softmax":
        log_p = logits.log_softmax(dim=1)
        logits = log_p - log_p.expm1().neg().clamp(min=torch.finfo(log_p.dtype).eps).log()
    if background is None:
        return logits
    return torch.cat((logits[:, :background], logits[:, background + 1 :]), dim=1)


def pair_heads(student: View, teacher: View, names: Sequence[str] | None, *, decodes: bool = False) -> list[HeadPair]:
    """The named heads of the student, or all, in its order; ``decodes`` allows for another coding of boxes.

    Raises:
        EyasError: the student or the teacher has no such head, or they disagree on it. The message names the head.
    """
    if not student.heads:
        raise EyasError("the student answers with no head, so its outputs cannot be distilled; use a feature method")
    unknown = [name for name in names or () if name not in student.heads]
    if unknown:
        raise EyasError(f"heads: the student has no head {', '.join(unknown)}; it has {', '.join(student.heads)}")
    return [
        _pair(name, head, teacher, decodes) for name, head in student.heads.items() if names is None or name in names
    ]


def _pair(name: str, own: HeadOutput, teacher: View, decodes: bool) -> HeadPair:
    if name not in teacher.heads:
        raise EyasError(
            f"head {name}: the teacher has none of this name, only {', '.join(teacher.heads) or 'none at all'}; "
            f"choose other heads with the method's option heads"
        )
    if own.matched is None:
        raise EyasError(
            f"head {name}: the student does not say which rows its losses count; see eyas.types.MatchedAnchors"
        )
    other = teacher.heads[name]
    theirs = _meaning(other)
    for fact, mine in _meaning(own).items():
        if mine != theirs[fact] and not (decodes and fact == CODING):
            raise EyasError(
                f"head {name}: student and teacher differ in {fact}, {mine} against {theirs[fact]}; their outputs can "
                f"only be compared where they mean the same. Build both with the same classes, anchors and box coding"
            )
    divisor = count_per_process(own.matched.divisor, own.matched.least)
    return HeadPair(name, own, other, own.matched, divisor)


def _meaning(head: HeadOutput) -> dict[str, object]:
    """The properties of a head that student and teacher must share."""
    return {
        "rows and columns": tuple(head.logits.shape),
        "activation": head.activation,
        "background column": head.background,
        "box deltas": None if head.deltas is None else tuple(head.deltas.shape),
        CODING: head.coding,
        "distributions": None if head.distributions is None else tuple(head.distributions.shape),
    }
