"""Student and teacher head by head: what the methods that distil detection outputs have in common.

The teacher has answered for the student's boxes, so row i of both speaks of one box. Which rows count, and what a sum
over them is divided by, is the student detector's own rule: a soft loss then weighs what the hard loss beside it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.methods.method import Method, Reads, Weight, global_count, ratio
from eyas.types import EyasError, HeadOutput, MatchedAnchors, Target, View


@dataclass(frozen=True)
class HeadPair:
    """One head of both detectors, for the same boxes.

    Attributes:
        name: of the head.
        student: what the student says, from a training pass.
        teacher: what the teacher says of the student's boxes.
        matched: the rows that the student's own losses count.
        divisor: what the sum over them is divided by, of all processes, see `eyas.methods.method.global_count`.
    """

    name: str
    student: HeadOutput
    teacher: HeadOutput
    matched: MatchedAnchors
    divisor: Tensor

    def logits(self) -> tuple[Tensor, Tensor]:
        """The student's and the teacher's logits at the rows of the class loss, (M, C) float32 each."""
        rows = self.matched.rows
        return self.student.logits[rows].float(), self.teacher.logits[rows].float()

    def deltas(self) -> tuple[Tensor, Tensor] | None:
        """Both box deltas at the rows of the box loss, in the trained slot, (P, 4) float32 each; None without boxes."""
        if self.student.deltas is None or self.teacher.deltas is None:
            return None
        where = (self.matched.positives, self.matched.slots)
        return self.student.deltas[where].float(), self.teacher.deltas[where].float()

    def average(self, total: Tensor) -> Tensor:
        """A sum over rows, divided as the detector divides the sum of its class loss."""
        return ratio(total, self.divisor)


class OutputDistillation(Method):
    """The base of the methods that compare head outputs; a subclass says what a head adds to the loss, in `term`.

    Args:
        name: the key of its loss term.
        weight: of the term, or auto.
        heads: names of the heads to distil; None for all that the student has.
        start_step: training batches before the term counts.

    Raises:
        EyasError: an option outside its range; or, from the first batch, heads on which student and teacher differ.
    """

    reads: frozenset[Reads] = frozenset({"heads"})

    def __init__(self, name: str, weight: Weight, heads: Sequence[str] | None, start_step: int) -> None:
        super().__init__(name, weight, start_step)
        self.require(heads is None or len(heads) > 0, "heads must name a head at least; leave it out for all of them")
        self.heads = heads

    def term(self, pair: HeadPair, student: View) -> Tensor:
        """What one head adds to the loss, a scalar."""
        raise NotImplementedError

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        return torch.stack([self.term(pair, student) for pair in pair_heads(student, teacher, self.heads)]).sum()


def pair_heads(student: View, teacher: View, names: Sequence[str] | None = None) -> list[HeadPair]:
    """The heads to compare, in the student's order.

    Args:
        student: a view with heads, from a training pass.
        teacher: a view whose heads are of the student's boxes.
        names: which of the student's heads; None for all.

    Raises:
        EyasError: there is no such head, the teacher lacks it, or the two do not agree on it; the head is named.
    """
    if not student.heads:
        raise EyasError("the student answers with no head, so its outputs cannot be distilled; use a feature method")
    unknown = [name for name in names or () if name not in student.heads]
    if unknown:
        raise EyasError(f"heads: the student has no head {', '.join(unknown)}; it has {', '.join(student.heads)}")
    chosen = [name for name in student.heads if names is None or name in names]
    return [_pair(name, student, teacher) for name in chosen]


def _pair(name: str, student: View, teacher: View) -> HeadPair:
    own = student.heads[name]
    if name not in teacher.heads:
        raise EyasError(
            f"head {name}: the teacher has none of this name, only {', '.join(teacher.heads) or 'none at all'}; "
            f"choose others by the method's option heads"
        )
    if own.matched is None:
        raise EyasError(
            f"head {name}: the student does not say which rows its losses count; see eyas.types.MatchedAnchors"
        )
    _check_agreement(name, own, teacher.heads[name])
    return HeadPair(name, own, teacher.heads[name], own.matched, global_count(own.matched.divisor))


def _check_agreement(name: str, student: HeadOutput, teacher: HeadOutput) -> None:
    facts: dict[str, list[object]] = {
        "rows and columns": [tuple(head.logits.shape) for head in (student, teacher)],
        "activation": [head.activation for head in (student, teacher)],
        "background column": [head.background for head in (student, teacher)],
        "box deltas": [None if head.deltas is None else tuple(head.deltas.shape) for head in (student, teacher)],
        "box coding": [head.coding for head in (student, teacher)],
    }
    for fact, (own, others) in facts.items():
        if own != others:
            raise EyasError(
                f"head {name}: student and teacher differ in {fact}, {own} against {others}; their outputs can only "
                f"be compared where they mean the same. Build both with the same classes, anchors and box coding"
            )
