"""DeFeat: objects and background of the neck's maps, each with its own average.

Guo, Han, Wang, Wu, Chen, Xu, Xu, "Distilling Object Detectors via Decoupled Features", CVPR 2021. On each level the
squared differences at the cells of objects and those in the background are averaged apart, so that the few cells of
objects count as much as their factor says.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from eyas.methods.adapter import Adapter
from eyas.methods.box_weights import foreground_masks
from eyas.methods.cells import to_device_async
from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import squared_distances, weighted_means
from eyas.types import Target, View


class DeFeat(MapImitation):
    """Decoupled features of the neck (Guo et al., CVPR 2021).

    Unit: half a mean over channels and over the cells of objects, and half a mean over channels and the cells of the
    background, on each level, over the images of all processes; each times its factor, and then a mean over levels. A
    level without cells of one kind has 0 for it. Published weight in this unit: 1, with the factors below (PASCAL VOC).
    A 3x3 convolution adapts the student's map in any case.

    Args:
        weight: factor of the loss, or auto.
        foreground: factor of the cells of objects.
        background: factor of all other cells.
        finest: how many of the finest strides to compare; None for all.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    needs = ("feature maps", "boxes")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        foreground: float = 3.0,
        background: float = 12.0,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "defeat",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.require(min(foreground, background) >= 0, "no factor can be negative")
        self.foreground, self.background = foreground, background

    def adapter(self, pair: LevelPair) -> nn.Module:
        return Adapter(pair.student.channels, pair.teacher.channels)

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        sizes = [map.shape[-2:] for map in teacher]
        strides = [view.levels[index].stride for index in self.chosen]
        objects = [to_device_async(mask, teacher[0].device) for mask in foreground_masks(targets, sizes, strides)]
        pairs = zip(student, teacher, strict=True)
        squared = [squared_distances(own, other) / (2 * other.shape[1] * len(teacher)) for own, other in pairs]
        on_objects = weighted_means(squared, objects)
        elsewhere = weighted_means(squared, [1 - mask for mask in objects])
        parts = zip(on_objects, elsewhere, strict=True)
        return [self.foreground * own + self.background * other for own, other in parts]
