"""Fine-grained feature imitation: the student imitates the teacher's features only near objects.

Wang, Yuan, Zhang, Feng, "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019. Where each symbol
of the paper is computed:

- psi, M_g, F_g and the mask I (section 3.1): `eyas.ops.near_objects`;
- N_p: `eyas.methods.imitation.count_imitated_cells`;
- the imitation loss (equation 2): `eyas.methods.imitation.sparse_imitation_loss`;
- lambda: the method's ``weight``, which the distiller multiplies the loss by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from eyas.methods.imitation import FeatureImitation, Rectify
from eyas.methods.masks import near_masks
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.near_objects import AssignmentRule
from eyas.types import Target, View

MANY = 0.5
"""The share of near cells above which the user is warned: far more than objects and their surroundings."""


class FGFI(FeatureImitation):
    """Fine-grained feature imitation (Wang et al., CVPR 2019).

    The loss is ``1 / (2 N_p)`` times the squared differences at near cells, summed over channels, cells, levels and
    images. N_p, the number of near cells on all levels and images of the batch, comes from
    `eyas.methods.imitation.count_imitated_cells`. A weight meant for this sum over channels is hundreds of times too
    small for a mean.

    Args:
        weight: lambda, the factor of the loss, or auto, which holds the ratio of the imitation gradient to the
            detection gradient. The published 0.01 fits only the published detectors.
        psi: share of an object's best IoU that an anchor must exceed for its cell to be near, in [0, 1]. 0 selects
            every cell with an anchor that overlaps an object; 1 selects none.
        assignment: levels over which an object's best IoU is taken: global (all), per_level (each separately) or
            by_size (the one level that the detector assigns the object to).
        kernel_size: kernel of the adaptation layer, odd.
        rectify: end the adaptation layer in a ReLU: always, never, or auto, which adds it if the teacher's features are
            never negative.
        init_std: standard deviation of the adaptation layer's initial weights.
        schedule: when the loss counts, see `Schedule`.
        sparse_below: evaluate the adaptation layer only at the near cells if their share is below this; by default
            `eyas.methods.imitation.SPARSE_BELOW` of the device. The loss and its gradients are the same.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    needs = ("feature maps", "anchors", "boxes")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        psi: float = 0.5,
        assignment: AssignmentRule = "global",
        kernel_size: int = 3,
        rectify: Rectify = "auto",
        init_std: float = 1e-4,
        schedule: Schedule = ALWAYS,
        sparse_below: float | None = None,
        name: str = "fgfi",
    ) -> None:
        super().__init__(name, weight, schedule, kernel_size, rectify, init_std, sparse_below)
        self.require(0 <= psi <= 1, f"psi must lie in [0, 1], got {psi}")
        rules = get_args(AssignmentRule)
        self.require(assignment in rules, f"assignment: one of {rules}: {assignment!r}")
        self.psi = psi
        self.assignment: AssignmentRule = assignment

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The near-object mask I of each level, (batch, H, W) bool, on the teacher's grids."""
        return near_masks(teacher, targets, psi=self.psi, assignment=self.assignment)

    def fingerprint(self) -> dict[str, object]:
        # The first ranges of by_size, which are not named, were those of single levels where several have one stride.
        ranges = {"ranges": 2} if self.assignment == "by_size" else {}
        return {"psi": self.psi, "assignment": self.assignment, **ranges}

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        return self._describe(teacher, targets, f"near (psi {self.psi:g}, {self.assignment})")

    def caution(self, teacher: View, targets: Sequence[Target]) -> str:
        near, total = map(sum, zip(*self._imitated(teacher, targets), strict=True))
        if near <= MANY * total:
            return ""
        return (
            f"{near / total:.0%} of the cells are near an object, so nearly the whole map is imitated, background too. "
            "Objects that fill the image are near many cells, and so are those that no anchor fits: choose the "
            f"teacher's anchors for the data, raise psi ({self.psi:g}), or take assignment by_size"
        )
