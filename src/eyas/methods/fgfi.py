"""Fine-grained feature imitation: the student imitates the teacher's features near objects, and only there.

Wang, Yuan, Zhang, Feng, "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019. The loss is
equation 2, in `eyas.methods.imitation`; the mask is section 3.1, in `eyas.ops.near_objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from eyas.methods.imitation import FeatureImitation, Rectify, describe_cells
from eyas.methods.method import Weight
from eyas.ops.near_objects import AssignmentRule, near_object_masks
from eyas.types import Target, View, host_boxes


class FGFI(FeatureImitation):
    """Fine-grained feature imitation (Wang et al., CVPR 2019).

    Args:
        weight: lambda of the total loss, or auto. The published 0.01 belongs to the published detectors; what matters
            is the ratio of the imitation gradient to the detection gradient, which auto holds.
        psi: share of an object's best IoU that an anchor must exceed for its cell to be near, in [0, 1]. 0 takes every
            cell one of whose anchors touches a box; 1 takes none, the comparison being strict.
        assignment: what that best IoU is the maximum of when there are several levels, see
            `eyas.ops.near_objects.AssignmentRule`.
        kernel_size: of the adaptation layer.
        rectify: end the adaptation layer in a ReLU: always, never, or where the teacher's features have none below 0.
        init_std: of the adaptation layer's weights.
        start_step: training batches before the loss counts: 400 in the authors' code, of tens of thousands.
        sparse_below: share of near cells below which the adaptation layer is evaluated at those cells only. The value
            and the gradients are the same; see `benchmarks/loss.py` for the crossover.
        name: the key of its loss term.

    Raises:
        EyasError: an option outside its range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        psi: float = 0.5,
        assignment: AssignmentRule = "global",
        kernel_size: int = 3,
        rectify: Rectify = "auto",
        init_std: float = 1e-4,
        start_step: int = 0,
        sparse_below: float = 0.4,
        name: str = "fgfi",
    ) -> None:
        super().__init__(
            name,
            weight,
            kernel_size=kernel_size,
            rectify=rectify,
            init_std=init_std,
            start_step=start_step,
            sparse_below=sparse_below,
        )
        self.require(0 <= psi <= 1, f"psi must lie in [0, 1], got {psi}")
        self.require(
            assignment in get_args(AssignmentRule), f"assignment: one of {get_args(AssignmentRule)}: {assignment!r}"
        )
        self.psi = psi
        self.assignment: AssignmentRule = assignment

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The near-object mask of each level, (batch, H, W), on the teacher's grids."""
        return near_object_masks(
            teacher.grids,
            host_boxes(targets),
            psi=self.psi,
            assignment=self.assignment,
            box_ranges=[level.box_range for level in teacher.levels],
        )

    def fingerprint(self) -> dict[str, object]:
        return {"psi": self.psi, "assignment": self.assignment}

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        what = f"near (psi {self.psi:g}, {self.assignment})"
        return describe_cells(self.teacher_targets(teacher, targets), teacher, what)
