"""CWD: where in the image each channel of the student is active, as the teacher's.

Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, equations 4 and 5. Each
channel becomes a distribution over the cells by a softmax, and the student's is drawn to the teacher's by the
Kullback-Leibler divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eyas.methods.maps import MapImitation
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.maps import spatial_log_softmax
from eyas.types import Target, View


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(p_t || p_s)`` of the channels' distributions over cells, mean over batch and channels, in nats.

    A float32 scalar, at least 0. It does not change when a number is added to a channel of either map.

    Args:
        student: (batch, C, H, W).
        teacher: the same.
        temperature: T of the softmax over cells, above 0.
    """
    own, other = spatial_log_softmax(student, temperature), spatial_log_softmax(teacher, temperature)
    return temperature**2 * (other.exp() * (other - own)).sum(dim=2).mean()


class CWD(MapImitation):
    """Channel-wise distillation of feature maps (Shu et al., ICCV 2021).

    Unit: the divergence, in nats, of one channel's distribution over all cells of a level, times T^2, as a mean over
    batch and channels; summed over levels. Published weight in this unit: 10 on the neck's five levels at T 1
    (MMRazor), 5 (mmdetection-distiller, which logs the cross-entropy: the same gradient). Where the channels differ, a
    1x1 convolution adapts the student's.

    Args:
        weight: factor of the loss, or auto.
        temperature: T of the softmax over cells, above 0.
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
        temperature: float = 1.0,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "cwd",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        return [channel_divergence(own, other, self.temperature) for own, other in zip(student, teacher, strict=True)]
