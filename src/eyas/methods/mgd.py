"""MGD: from some of the student's cells a small generator makes all of the teacher's.

Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", ECCV 2022, equations 2 to 4. Cells of the student's
map are hidden by chance; two convolutions, trained with the student and dropped after training, fill the map in again,
and their output imitates the teacher's map. What is left of the student's map then has to tell of its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyas.methods.cells import to_device_async
from eyas.methods.maps import MapImitation
from eyas.methods.method import LevelPair, Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.methods.weighted import squared_distances, whole_count
from eyas.nn.processes import random_of_batch
from eyas.ops.losses import ratio
from eyas.types import Target, View


def shown_cells(size: Sequence[int], hidden: float, random: torch.Generator) -> Tensor:
    """float32 cells of a size such as (batch, 1, H, W), on the CPU: 0 with the probability ``hidden``, else 1."""
    return (torch.rand(tuple(size), generator=random) >= hidden).float()


def generator(channels: int) -> nn.Module:
    """Two 3x3 convolutions with a ReLU between them, of torch's default initial weights (equation 3)."""
    first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(inplace=True), second)


class MGD(MapImitation):
    """Masked generative distillation (Yang et al., ECCV 2022).

    Unit: the squared difference of the generator's map and the teacher's, summed over channels and cells and divided by
    the number of images, on each level; then summed over levels. A cell counts the same on every level, so that the
    finest of five has three quarters of all. Images are those of all processes. Published weights in this unit: 2e-5
    for one-stage detectors with ``hidden`` 0.65, 5e-7 for two-stage ones with 0.45. ``level_mean`` takes the mean
    over the cells of a level instead, so that all levels count alike; no weight was published for it.

    Args:
        weight: factor of the loss, or auto.
        hidden: the probability that a cell of the student's map is set to 0, in [0, 1).
        level_mean: also divide the sum of a level by its cells, which the authors do not.
        finest: how many of the finest strides to compare; None for all. Four for two-stage detectors (P2 to P5).
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        hidden: float = 0.65,
        level_mean: bool = False,
        finest: int | None = None,
        schedule: Schedule = ALWAYS,
        name: str = "mgd",
    ) -> None:
        super().__init__(name, weight, schedule, finest)
        self.require(0 <= hidden < 1, f"hidden is a share of the cells, at least 0 and below 1, got {hidden}")
        self.hidden, self.level_mean = hidden, level_mean
        self.generators = nn.ModuleList()
        self.seed = 0

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        self.generators = nn.ModuleList(generator(pairs[index].teacher.channels) for index in self.chosen)
        self.seed = int(torch.randint(2**48, ()))  # the distiller's seed decides

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        return f"{super().describe(teacher, targets)}, {self.hidden:.0%} of the student's hidden in each batch"

    def levels(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View, targets: Sequence[Target]
    ) -> list[Tensor]:
        random, images = random_of_batch(self.seed, view.batch), whole_count(len(teacher[0]), teacher[0].device)
        losses = []
        for generate, own, other in zip(self.generators, student, teacher, strict=True):
            shown = shown_cells((len(own), 1, *own.shape[-2:]), self.hidden, random)
            squared = squared_distances(generate(own * to_device_async(shown, own.device)), other)
            losses.append(ratio(squared.sum(), images * (squared[0].numel() if self.level_mean else 1)))
        return losses
