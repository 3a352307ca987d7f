"""FGD: the teacher's map where it attends, objects and background apart, and the relations of its cells.

Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, equations 5
to 11. Squared differences are weighted by the teacher's attention over cells and channels, and by 1 over the area of
the smallest box, or of the background; the student imitates the attention too; and a global-context block on either
side compares what each cell knows of the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyas.methods.box_weights import inverse_areas
from eyas.methods.cells import to_device_async
from eyas.methods.global_context import GlobalContext
from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import squared_distances, whole_count
from eyas.ops.losses import ratio
from eyas.ops.maps import channel_attention, spatial_attention
from eyas.types import Target, View


def focal_sums(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """The sums of equations 8 and 9 over a batch: foreground, background and attention; (3,) float32.

    Args:
        student: (batch, C, H, W).
        teacher: the same.
        weights: (batch, H, W), 1 over the area of the smallest box at each cell, 0 in the background.
        temperature: of the softmax that attention is made by, above 0.
    """
    channels, cells = channel_attention(teacher, temperature), spatial_attention(teacher, temperature)
    focused = cells * ((student - teacher).square() * channels[..., None, None]).sum(dim=1)
    background = (weights == 0).float()
    background = ratio(background, background.sum(dim=(1, 2), keepdim=True))
    attention = (spatial_attention(student, temperature) - cells).abs().sum()
    attention = attention + (channel_attention(student, temperature) - channels).abs().sum()
    return torch.stack(((focused * weights).sum(), (focused * background).sum(), attention))


class FGD(MapImitation):
    """Focal and global distillation (Yang et al., CVPR 2022).

    Unit: four sums over channels and cells on each level, each divided by the number of images, times its factor, and
    summed over levels. In the foreground the weights of a box's cells add up to at most 1, so that the loss grows with
    the number of boxes; in the background they add up to 1 per image. Attention is an L1 sum. Images are those of all
    processes. Published weight in this unit: 1, with the factors below for RetinaNet and GFL; 1.6 (at temperature 0.8
    and 0.5) for FCOS and RepPoints; Faster R-CNN has factors of its own, see the page.

    Args:
        weight: factor of the loss, or auto.
        foreground: alpha, the factor of the foreground.
        background: beta, of the background.
        attention: gamma, of the attention. The paper has 1e-3, the authors' configs 5e-4.
        relation: lambda, of the maps after global context.
        temperature: of the attention's softmax, above 0.
        finest: how many of the finest strides to compare; None for all. Four for two-stage detectors (P2 to P5).
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
        foreground: float = 1e-3,
        background: float = 5e-4,
        attention: float = 5e-4,
        relation: float = 5e-6,
        temperature: float = 0.5,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "fgd",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.factors = (foreground, background, attention)
        self.relation, self.temperature = relation, temperature
        self.require(min(*self.factors, relation) >= 0, "no factor can be negative")
        self.require(temperature > 0, f"temperature must be positive, got {temperature}")
        self.own_contexts, self.teacher_contexts = nn.ModuleList(), nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        channels = [pairs[index].teacher.channels for index in self.chosen]
        self.own_contexts, self.teacher_contexts = (nn.ModuleList(map(GlobalContext, channels)) for _ in range(2))

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        images = whole_count(len(targets), teacher[0].device)
        strides = [view.levels[index].stride for index in self.chosen]
        contexts, losses = zip(self.own_contexts, self.teacher_contexts, strict=True), []
        for own, other, stride, (own_context, other_context) in zip(student, teacher, strides, contexts, strict=True):
            weights = to_device_async(inverse_areas(targets, other.shape[-2:], stride), other.device)
            focal = focal_sums(own, other, weights, self.temperature).unbind()
            related = squared_distances(own_context(own), other_context(other)).sum()
            total = sum(factor * part for factor, part in zip(self.factors, focal, strict=True))
            losses.append(ratio(total + self.relation * related, images))
        return losses
