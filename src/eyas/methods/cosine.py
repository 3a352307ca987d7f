"""Cosine imitation: the student's vectors are to point where the teacher's do, whatever their length.

The loss by which RT-DETRv4 (Liao et al., "RT-DETRv4: Painlessly Furthering Real-Time Object Detection with Vision
Foundation Models", 2025) imitates DINOv3. AM-RADIO (Ranzinger et al., CVPR 2024) adds nine tenths of it to one tenth of
a smooth L1 loss, for lengths too.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from eyas.methods.maps import MapImitation
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import image_share
from eyas.ops.maps import unit_vectors
from eyas.types import Target, View


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cos`` of the vectors of each cell, mean over batch and cells: a float32 scalar in [0, 2].

    It does not change when a vector of either map is multiplied by a positive number. The cosine with a vector of zeros
    counts as 0.

    Args:
        student: (batch, C, H, W).
        teacher: the same.
    """
    return (1 - (unit_vectors(student) * unit_vectors(teacher)).sum(dim=1)).mean()


class Cosine(MapImitation):
    """Imitation of the direction of feature vectors (RT-DETRv4, 2025), for a teacher such as DINOv2 or DINOv3.

    Unit: ``1 - cos``, a mean over the images of all processes and the cells, padding included, on each level; then
    summed over levels. At weight 1 a level has at most 2. Published weight in this unit: 5 for RT-DETRv4's S and M, 15
    for L, 20 for X, on one level of stride 32; its mean is that of one process. The student's map always passes a 1x1
    convolution, which is RT-DETRv4's linear layer on each cell. Where the strides differ, the student's map is sampled
    at the teacher's cells; RT-DETRv4 resizes the teacher's map to the student's.

    Args:
        weight: factor of the loss, or auto.
        smooth_l1: the share of a smooth L1 loss, a mean over channels too, in [0, 1); the cosine has the rest. AM-RADIO
            has 0.1.
        finest: how many of the finest strides to compare; None for all.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        smooth_l1: float = 0.0,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "cosine",
    ) -> None:
        super().__init__(name, weight, schedule, finest, adapt_always=True)
        self.require(0 <= smooth_l1 < 1, f"smooth_l1 is a share in [0, 1), got {smooth_l1}")
        self.smooth_l1 = smooth_l1

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        pairs, share = list(zip(student, teacher, strict=True)), image_share(student[0])
        losses = [share * cosine_distance(*pair) for pair in pairs]
        if not self.smooth_l1:
            return losses
        lengths = [share * F.smooth_l1_loss(*pair) for pair in pairs]
        return [loss.lerp(length, self.smooth_l1) for loss, length in zip(losses, lengths, strict=True)]
