"""CrossKD: the student's features finish in the teacher's head, and what comes out is compared with the teacher's own.

Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024 (arXiv 2306.11369).
The student's own predictions learn from the ground truth alone, so teacher and ground truth never contradict each other
at one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation, classes_and_boxes, pair_heads
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.losses import giou_loss, iou_loss
from eyas.ops.maps import moments, standardise
from eyas.types import BranchesAt, BranchMaps, EyasError, HeadOutput, Target, View

BOX_LOSSES = {"giou": giou_loss, "iou": iou_loss}


def rescaled(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map with the teacher's mean and deviation in each channel, over the batch and the cells.

    Both are (batch, C, H, W). Returns float32; gradients pass through the student's statistics, none to the teacher.
    """
    mean, deviation = moments(teacher.detach())
    return standardise(student) * deviation + mean


def cross(pair: HeadPair, student: Mapping[str, BranchMaps], teacher: Mapping[str, BranchMaps]) -> HeadOutput:
    """The teacher's head output as it is when the student's maps run through the rest of its branches.

    Raises:
        EyasError: the head has no branches, or the channels at the position differ.
    """
    logits, deltas = (_crossed(pair.name, field, student, teacher) for field in ("logits", "deltas"))
    return replace(pair.teacher, logits=logits, deltas=deltas)


def _crossed(head: str, field: str, student: Mapping[str, BranchMaps], teacher: Mapping[str, BranchMaps]) -> Tensor:
    branch = f"{head}.{field}"
    if branch not in student or branch not in teacher:
        raise EyasError(f"head {head} cannot be entered between its convolutions; choose others with heads")
    levels = list(zip(student[branch].maps, teacher[branch].maps, strict=True))
    for student_map, teacher_map in levels:
        if student_map.shape[1] != teacher_map.shape[1]:
            raise EyasError(
                f"head {head}: a map of the student has {student_map.shape[1]} channels, the teacher's head takes "
                f"{teacher_map.shape[1]} there; build the student with the teacher's number (fpn_channels), or use BCKD"
            )
    return teacher[branch].resume([rescaled(*both) for both in levels])


class CrossKD(OutputDistillation):
    """Cross-head distillation of dense heads (Wang et al., 2024).

    In each branch of the head the student's map after ``position`` convolutions, before the activation, gets the
    channel statistics of the teacher's map there, and runs through the rest of the teacher's branch, whose parameters
    stay as they are. At position 0 it is the map that enters the head; negative positions count from the end.

    Unit: with p the class probabilities and ^ what the student's map gives in the teacher's head, ``class_weight``
    times the sum over rows and classes of ``BCE(p^, p_t) |p_t - p^|^beta``, plus ``box_weight`` times the sum over rows
    of ``max_c p_t`` times the box loss of the decoded boxes; divided by the number that the detector divides its class
    loss by, as a mean over processes. The rows are those of the student's own class loss. All levels count in one sum.
    The channel statistics are of one level, batch and process, padding included, as in the paper. The published weights
    in this unit are 1 and 1 for RetinaNet at position 3 of 4, with GIoU.

    Published for FCOS are position 2, weights 0.4 and 0.75 and the IoU, divided by the sum of the centerness targets;
    here the number of positives divides. Boxes of the teacher less than a pixel wide or high do not count.

    Args:
        weight: factor of the whole loss, or auto.
        position: convolutions of each branch that are the student's own; -1 is all but the last. Both branches have
            as many channels there; their depths may differ.
        class_weight: factor of the class term; 0 distils only the boxes.
        box_weight: factor of the box term; 0 distils only the classes.
        beta: exponent of the class term's factor; 0, or at least 1.
        box_loss: "giou" or "iou".
        heads: names of the heads to distil; None for those of the student that can be cut.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher differ on a head, or a head
            cannot be cut there.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        position: int = -1,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        beta: float = 1.0,
        box_loss: Literal["giou", "iou"] = "giou",
        heads: Sequence[str] | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "crosskd",
    ) -> None:
        super().__init__(name, weight, heads, schedule)
        self.require(class_weight >= 0, f"class_weight cannot be negative, got {class_weight}")
        self.require(box_weight >= 0, f"box_weight cannot be negative, got {box_weight}")
        self.require(beta == 0 or beta >= 1, f"beta must be 0 or at least 1, got {beta}")
        self.require(box_loss in BOX_LOSSES, f"box_loss is one of {', '.join(BOX_LOSSES)}, got {box_loss!r}")
        self.position = BranchesAt(position)
        self.reads = frozenset({"heads", self.position})
        self.class_weight, self.box_weight, self.beta = class_weight, box_weight, beta
        self.box_loss = BOX_LOSSES[box_loss]

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        own, theirs = student.branches[self.position], teacher.branches[self.position]
        names = list(dict.fromkeys(key.partition(".")[0] for key in own)) if self.heads is None else self.heads
        pairs = pair_heads(student, teacher, names, decodes=True)
        return self.total({pair.name: self._loss(pair, cross(pair, own, theirs)) for pair in pairs})

    def _loss(self, pair: HeadPair, crossed: HeadOutput) -> Tensor:
        across, weights = replace(pair, student=crossed), (self.class_weight, self.box_weight, self.beta)
        return classes_and_boxes(across, *weights, self.box_loss, lambda _, teachers: teachers.amax(dim=1))
