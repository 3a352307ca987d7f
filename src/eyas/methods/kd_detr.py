"""KD-DETR: student and teacher are asked the same queries, so that their answers are about the same points.

Wang, Li, Weng, Zhang, Yue, Feng, Han, Ding, "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent
Distillation Points Sampling", CVPR 2024: random queries, drawn anew for each batch (general sampling), and the
teacher's own (specific sampling) are put to both decoders. A query weighs as much as the teacher is sure of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from eyas.methods.method import LevelPair, Weight
from eyas.methods.queries import Factors, QueryDistillation, align, confidence, row_losses
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.vanilla import kl_softmax_rows
from eyas.methods.weighted import whole_count
from eyas.nn.processes import random_of_batch
from eyas.ops.losses import ratio
from eyas.types import EyasError, QueryDecoder, QueryOutput, Size, View

ClassTerm = Literal["kl", "bce"]


def consistent_point_losses(
    student: QueryOutput, teacher: QueryOutput, size: Size, factors: Factors, temperature: float | None = 10.0
) -> Tensor:
    """The losses of the layers for answers to the same queries, (layers,) float32.

    A query has the loss of `eyas.methods.queries.row_losses`, with ``T^2 KL`` of the softmax over classes as the class
    term, times the teacher's highest class probability over the sum of those of its image; then the mean over images.

    Args:
        student, teacher, size, factors: as for `eyas.methods.queries.row_losses`.
        temperature: T; None takes the cross-entropy of `eyas.methods.queries.soft_cross_entropy` instead.
    """
    class_loss = None if temperature is None else partial(kl_softmax_rows, temperature=temperature)
    rows = row_losses(student, teacher, size, factors, class_loss)
    weights = confidence(teacher.logits, teacher.background)
    images = ratio((weights * rows).sum(-1), weights.sum(-1))
    return images.sum(-1) / whole_count(images.shape[1], images.device)


class KDDETR(QueryDistillation):
    """Distillation at consistent points (Wang et al., CVPR 2024), for decoders that can answer each other's queries.

    Unit: summed over classes, a weighted mean over the queries of an image, a mean over the images of the batch in all
    processes, summed over layers and over both sets of queries. The published factors in this unit are 5 for boxes, 2
    for overlaps, and 1 (DAB-DETR), 2 (Deformable DETR) or 4 (DINO) for classes, with weight 1: those of TPRD's port, as
    the authors have published no code. Layer is compared with layer.

    Both must be of one family and width, or of families whose queries are boxes: DAB-DETR, Deformable DETR with two
    stages, RT-DETR, D-FINE, DEIMv2, LW-DETR and RF-DETR. For those with two stages this is an adaptation: the points
    are the boxes that the teacher selects, and each decoder adds content of its own to them.

    The student's decoder runs three times, the teacher's twice. Random queries depend on the distiller's seed, the
    batch and the process alone, so that a resumed run draws the same.

    Args:
        weight: factor of the loss, or auto.
        points: random queries of each batch; 0 leaves the teacher's own. Published: 300, and 900 with DINO.
        temperature: T of the class term, above 0.
        class_term: "kl" of the softmax over classes at T, as published; or "bce", the cross-entropy of the sigmoids,
            which also compares how sure both are that there is an object at all.
        class_weight: factor of the class term.
        box_weight: factor of the distance of boxes.
        giou_weight: factor of the term of overlaps.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher have no queries, queries of
            different kinds, or classes that cannot be compared.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        points: int = 300,
        temperature: float = 10.0,
        class_term: ClassTerm = "kl",
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        schedule: Schedule = ALWAYS,
        name: str = "kd_detr",
    ) -> None:
        super().__init__(name, weight, schedule, Factors(class_weight, box_weight, giou_weight))
        self.require(points >= 0, f"points cannot be negative, got {points}")
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.require(class_term in ("kl", "bce"), f'class_term is "kl" or "bce", got {class_term!r}')
        self.points = points
        self.temperature = temperature if class_term == "kl" else None
        self.seed = 0

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        self.seed = int(torch.randint(2**48, ()))  # the distiller's seed decides

    def losses(self, student: QueryDecoder, teacher: QueryDecoder, view: View) -> Tensor:
        total = self._compared(student.answer(teacher.points), teacher.own, view)
        if self.points:
            drawn = teacher.draw(self.points, random_of_batch(self.seed, view.batch))
            total = total + self._compared(student.answer(drawn), teacher.answer(drawn), view)
        return total

    def _compared(self, student: QueryOutput, teacher: QueryOutput, view: View) -> Tensor:
        own, other = align(student, teacher)
        if own.logits.shape[-1] == 1 and self.temperature is not None and self.factors.classes:
            raise EyasError(
                f"{self.name}: the softmax of the only class, {own.classes[0]}, is 1 whatever its score, so nothing of "
                'it would be learned; give class_term="bce"'
            )
        return consistent_point_losses(own, other, view.image_size, self.factors, self.temperature)
