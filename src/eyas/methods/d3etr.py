"""D3ETR: the student's queries learn from the teacher's twice, matched one to one and asked the same.

Chen, Chen, Liu, Zeng, "D3ETR: Decoder Distillation for Detection Transformer", IJCAI 2024, its "MixMatcher": adaptive
matching pairs the queries of both at the least total cost; fixed matching puts the teacher's queries to the student's
decoder, whose answers are compared one by one. The terms on attention maps are left out.
"""

from __future__ import annotations

from torch import Tensor

from eyas.methods.detr_distill import matched_losses
from eyas.methods.method import Weight
from eyas.methods.queries import Factors, QueryDistillation, align, mean_over_queries, row_losses
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.types import QueryDecoder, View


class D3ETR(QueryDistillation):
    """The output terms of D3ETR's adaptive and fixed matching (Chen et al., IJCAI 2024).

    Unit: as for `eyas.DETRDistill`, the loss of the adaptive matching, plus the same over the teacher's queries for the
    fixed one; published factors 1, 5 and 2, weight 1. The terms on self- and cross-attention are left out: deformable
    attention has no such maps. The fixed matching needs decoders that can answer each other's queries: one family with
    one width, or families whose queries are boxes. The student's decoder runs twice.

    Args:
        weight: factor of the loss, or auto.
        class_weight: factor of the class term, and of its cost.
        box_weight: factor of the distance of boxes, and of its cost.
        giou_weight: factor of the term of overlaps, and of its cost.
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
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        schedule: Schedule = ALWAYS,
        name: str = "d3etr",
    ) -> None:
        super().__init__(name, weight, schedule, Factors(class_weight, box_weight, giou_weight))

    def losses(self, student: QueryDecoder, teacher: QueryDecoder, view: View) -> Tensor:
        adaptive = matched_losses(*align(student.own, teacher.own), view.image_size, self.factors)
        answers = align(student.answer(teacher.points), teacher.own)
        return adaptive + mean_over_queries(row_losses(*answers, view.image_size, self.factors))
