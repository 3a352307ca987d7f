"""PKD: the student's standardised maps imitate the teacher's, so that only their patterns count.

Cao, Zhang, Gao, Cheng, Cheng, Zhang, "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
Coefficient", NeurIPS 2022, equation 4. Each channel has its mean over the batch and the cells subtracted and is divided
by its deviation there. Half of the mean squared difference of two such maps is 1 - r, r the mean of the channels'
Pearson correlations.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eyas.methods.maps import MapImitation
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.maps import CELLS, deviation, inverse_deviation
from eyas.types import Target, View


def pearson_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half of the mean squared difference of the standardised maps, a float32 scalar in [0, 2].

    It is ``(1 - 1/n) mean_c (1 - r_c)`` for n values in each channel (batch times cells) and the correlations r_c of
    the C channels. It does not change when a channel of either map is multiplied by a positive number or shifted. A
    channel of the student that is constant has no gradient.

    Args:
        student: (batch, C, H, W).
        teacher: the same.
    """
    means = [maps.detach().float().mean(dim=CELLS, keepdim=True) for maps in (student, teacher)]
    own, other = student.float() - means[0], teacher.float() - means[1]
    # The square multiplied out: three sums take a third of the time of the standardised maps and their difference. The
    # means need no gradient, since those of centred maps sum to 0.
    squares, shared, others = ((a * b).sum(dim=CELLS) for a, b in ((own, own), (own, other), (other, other)))
    count = own.numel() // own.shape[1]
    by, other_by = (
        inverse_deviation(deviation(sums, count), mean.flatten())
        for sums, mean in zip((squares, others), means, strict=True)
    )
    differences = squares * by**2 - 2 * shared * by * other_by + others * other_by**2
    return (differences / count).mean().clamp(min=0) / 2  # rounding may leave less than 0 where both are alike


class PKD(MapImitation):
    """Imitation of standardised feature maps (Cao et al., NeurIPS 2022).

    Unit: half a mean over batch, channels and cells, on each level, then summed over levels. At weight 1 a level has at
    most 2, whatever the scale of the features and the size of the maps. Statistics are those of the batch of one
    process, padding included, as in the authors' code. Published weight in this unit: 6 for a two-stage teacher, 10 for
    a one-stage one. Nothing is learned unless student and teacher differ in channels, for which the authors have no
    layer.

    Args:
        weight: factor of the loss, or auto.
        finest: how many of the finest strides to compare; None for all. The authors leave out the coarsest of
            five.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        finest: int | None = 4,
        schedule: Schedule = ALWAYS,
        name: str = "pkd",
    ) -> None:
        super().__init__(name, weight, schedule, finest)

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        return [pearson_loss(own, other) for own, other in zip(student, teacher, strict=True)]
