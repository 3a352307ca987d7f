"""BCKD: class scores as independent binary targets, and boxes by their overlap.

Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", ICCV 2023
(arXiv 2308.14286). A softmax over classes compares a class only with the others; dense detectors score each by a
sigmoid, where the level counts too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eyas.methods.method import Weight
from eyas.methods.outputs import HeadPair, OutputDistillation, classes_and_boxes
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.losses import giou_loss
from eyas.types import View


class BCKD(OutputDistillation):
    """Binary classification distillation and IoU-based localisation distillation of every head (Yang et al., 2023).

    Unit: with p the class probabilities, ``class_weight`` times the sum over rows and classes of
    ``BCE(p_s, p_t) |p_t - p_s|^beta``, plus ``box_weight`` times the sum over rows of
    ``(1 - GIoU(box_s, box_t)) max_c |p_t - p_s|``; divided by the number that the detector divides its class loss by,
    as a mean over processes. The rows are those of the student's own class loss. All levels count in one sum, and the
    heads are added up. The published weights in this unit are 1 and 4, at weight 1.

    The authors' code drops the loss of a level that has no object in the batch; the formula, and this class, does not.
    Their divisor is the number of positives over all processes, which is that of FCOS, too; RetinaNet's counts at least
    one for each image. Where a head has a softmax, which theirs do not, each class's log-odds against all other columns
    stand for its logit, and the background is left out; where it predicts a box for each class, only the boxes that its
    own loss trains count. Boxes of the teacher less than a pixel wide or high do not count.

    Args:
        weight: factor of the whole loss, or auto.
        class_weight: factor of the class term; 0 distils only the boxes.
        box_weight: factor of the box term; 0 distils only the classes.
        beta: exponent of the class term's factor; 0, or at least 1.
        heads: names of the heads to distil; None for all of the student's.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher differ on a head in more than
            the coding of boxes.
    """

    decodes = True

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        class_weight: float = 1.0,
        box_weight: float = 4.0,
        beta: float = 1.0,
        heads: Sequence[str] | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "bckd",
    ) -> None:
        super().__init__(name, weight, heads, schedule)
        self.require(class_weight >= 0, f"class_weight cannot be negative, got {class_weight}")
        self.require(box_weight >= 0, f"box_weight cannot be negative, got {box_weight}")
        self.require(beta == 0 or beta >= 1, f"beta must be 0 or at least 1, got {beta}")
        self.class_weight, self.box_weight, self.beta = class_weight, box_weight, beta

    def term(self, pair: HeadPair, student: View) -> Tensor:
        weights = self.class_weight, self.box_weight, self.beta
        return classes_and_boxes(pair, *weights, giou_loss, lambda own, teachers: (teachers - own).abs().amax(dim=1))
