"""FitNets' hint for detectors: the student imitates the teacher's whole feature map.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3: half the squared distance between the
teacher's map and the student's after a regressor. It is also the hint of Chen et al., NIPS 2017, equation 7 (without
the half), and the "full feature" row in the tables of Wang et al., CVPR 2019. Here it is averaged over cells, so it
equals FGFI's loss with every cell in the mask, and the same weight means the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eyas.methods.cells import every_cell
from eyas.methods.imitation import FeatureImitation, Rectify
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.types import Target, View


class FitNets(FeatureImitation):
    """The hint loss on the whole feature map (Romero et al., ICLR 2015).

    The loss is the squared difference, summed over channels and averaged over the cells of all levels and images of the
    batch, halved.

    Args:
        weight: factor of the loss, or auto.
        kernel_size: kernel of the regressor, odd; 3 makes it the adaptation layer of FGFI.
        rectify: end the regressor in a ReLU: always, never, or auto, which adds it if the teacher's features are never
            negative.
        init_std: standard deviation of the regressor's initial weights.
        schedule: when the loss counts, see `Schedule`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        kernel_size: int = 1,
        rectify: Rectify = "auto",
        init_std: float = 1e-4,
        schedule: Schedule = ALWAYS,
        name: str = "fitnets",
    ) -> None:
        super().__init__(name, weight, schedule, kernel_size, rectify, init_std)

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """Every cell of each level, (batch, H, W) bool."""
        return every_cell(teacher)

    def fingerprint(self) -> dict[str, object]:
        return {}

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        return "every cell"
