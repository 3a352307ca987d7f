"""DETRDistill: each query of the student learns the answer of the teacher's query that it is matched with.

Chang, Wang, Xu, Chen, Yang, Zhao, "DETRDistill: A Universal Knowledge Distillation Framework for DETR-families", ICCV
2023, its "Hungarian-matching logits distillation": in each layer of the decoders the queries of both are matched one to
one at the least total cost, and the costs of the pairs are the loss.
"""

from __future__ import annotations

from torch import Tensor

from eyas.methods.method import Weight
from eyas.methods.queries import Factors, QueryDistillation, align, matched, mean_over_queries, row_losses
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.types import QueryDecoder, QueryOutput, Size, View


def matched_losses(student: QueryOutput, teacher: QueryOutput, size: Size, factors: Factors) -> Tensor:
    """The mean loss of the matched pairs, layer by layer, (layers,) float32.

    For a pair it is ``a BCE(s, sigmoid(t)) + b |b_s - b_t| + c (1 - GIoU)``, the BCE summed over classes; arguments as
    for `eyas.methods.queries.row_losses`, whose factors are those of the matching cost too.
    """
    return mean_over_queries(row_losses(*matched(student, teacher, size, factors), size, factors))


class DETRDistill(QueryDistillation):
    """Hungarian-matching logits distillation (Chang et al., ICCV 2023), for any two detectors of the DETR family.

    Unit: summed over classes, a mean over the matched pairs of the batch in all processes, summed over the layers of
    the student's decoder. In this unit the published factors are 1, 5 and 2, and the weight 1. The authors divide by
    the queries of the batch of each process. Their term on features is `eyas.TargetAware`; that on the teacher's
    queries with ground truth is left out. Decoders may differ in layers, queries and family; what is compared must mean
    the same.

    Matching is done on the host, in each batch and layer.

    Args:
        weight: factor of the loss, or auto.
        class_weight: factor of the class term, and of its cost.
        box_weight: factor of the distance of boxes, and of its cost.
        giou_weight: factor of the term of overlaps, and of its cost.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range; or, at the first batch, student and teacher have no queries, or classes
            that cannot be compared.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        schedule: Schedule = ALWAYS,
        name: str = "detr_distill",
    ) -> None:
        super().__init__(name, weight, schedule, Factors(class_weight, box_weight, giou_weight))

    def losses(self, student: QueryDecoder, teacher: QueryDecoder, view: View) -> Tensor:
        return matched_losses(*align(student.own, teacher.own), view.image_size, self.factors)
