"""Feature imitation on the cells of a mask: the loss and the base class that `FGFI`, `BoxMask` and `FitNets` share.

Equation 2 of Wang et al., CVPR 2019: ``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over
channels, not a mean, and one average over the N_p imitated cells of the whole batch. A weight meant for it is several
hundred times too small for a mean over channels. The methods differ only in the mask I.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from eyas.methods.adapter import Adapter
from eyas.methods.cells import CachedView, CellMethod, TeacherTargets, at_teacher_cells
from eyas.methods.method import LevelPair, Weight
from eyas.methods.schedule import Schedule
from eyas.methods.weighted import whole_count
from eyas.ops.losses import ratio
from eyas.tools.timing import span
from eyas.types import Target, View

Rectify = Literal["auto", "always", "never"]
"""Whether an adaptation layer ends in a ReLU; ``auto`` adds one if the teacher's map is never negative."""


SPARSE_BELOW: Mapping[str, float] = {"cpu": 0.4, "cuda": 0.4}
"""Kind of device -> the share of imitated cells below which an adaptation layer is evaluated there alone, by default.

On a CPU the sparse form is still faster at 0.4 and above, and takes twice the memory of the dense one there
(`benchmarks.loss`). It has not been measured on a GPU: ``python -m benchmarks.gpu`` prints the value to set. Another
accelerator has the GPU's.
"""


def imitation_loss(adapted: Tensor, teacher: Tensor, mask: Tensor, num_cells: Tensor | float) -> Tensor:
    """Equation 2 of Wang et al. on whole maps, as written; `sparse_imitation_loss` is tested and timed against it.

    Args:
        adapted: (batch, C, H, W), the student's features after the adaptation layer.
        teacher: (batch, C, H, W), the teacher's features.
        mask: (batch, H, W) bool, the imitated cells.
        num_cells: N_p, the imitated cells of all levels, see `count_imitated_cells`. 0 gives a loss of 0 that still has
            a gradient path.

    Returns:
        A float32 scalar, at least 0: the squared differences summed over channels and masked cells, over 2 N_p.
    """
    squared = (adapted.float() - teacher.float()).square().sum(dim=1)
    return ratio((squared * mask).sum(), 2 * num_cells)


def sparse_imitation_loss(adapted: Tensor, teacher: Tensor, num_cells: Tensor | float) -> Tensor:
    """Equation 2 of Wang et al. from the features at the imitated cells alone, a float32 scalar, at least 0.

    Args:
        adapted: (N, C), the student's features there after the adaptation layer, see `Adapter.at`; the whole map,
            (batch, H, W, C), if every cell is imitated.
        teacher: the teacher's features there, in the same shape.
        num_cells: N_p, as in `imitation_loss`.
    """
    return ratio((adapted.float() - teacher.float()).square().sum(), 2 * num_cells)


def count_imitated_cells(teacher_targets: Sequence[TeacherTargets]) -> Tensor:
    """N_p of equation 2: the imitated cells (FGFI's near cells) on all levels and images of the batch.

    A float32 scalar on the teacher's device. R processes each get N_p / R, see `whole_count`.
    """
    count = sum(len(level.cells[0]) for level in teacher_targets)
    return whole_count(count, teacher_targets[0].vectors.device)


class FeatureImitation(CellMethod):
    """Base class of the methods that imitate feature maps on some cells. A subclass selects the cells in `masks`.

    The loss is equation 2 of Wang et al.: squared differences, summed over channels and averaged over the imitated
    cells of all levels and images of the batch, halved. Each level pair has its own adaptation layer. Arguments and
    errors are those of `FGFI`.
    """

    def __init__(
        self,
        name: str,
        weight: Weight,
        schedule: Schedule,
        kernel_size: int,
        rectify: Rectify,
        init_std: float,
        sparse_below: float | None = None,
    ) -> None:
        super().__init__(name, weight, schedule)
        self.require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive: {kernel_size}")
        self.require(rectify in get_args(Rectify), f"rectify is one of {get_args(Rectify)}, got {rectify!r}")
        self.require(init_std > 0, f"init_std must be positive, got {init_std}")
        self.kernel_size = kernel_size
        self.rectify = rectify
        self.init_std = init_std
        self.sparse_below = sparse_below
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        super().setup(pairs)
        self.adapters = nn.ModuleList(
            Adapter(
                pair.student.channels,
                pair.teacher.channels,
                kernel_size=self.kernel_size,
                rectified=pair.rectified if self.rectify == "auto" else self.rectify == "always",
                init_std=self.init_std,
            )
            for pair in pairs
        )

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The loss of one batch, a float32 scalar without its weight. All levels share one N_p."""
        teacher_targets = self.teacher_targets(teacher, targets, self.extents(student))
        num_cells = count_imitated_cells(teacher_targets)
        adapters = cast(list[Adapter], list(self.adapters))
        levels = zip(adapters, student.features, teacher_targets, self.steps, strict=True)
        with span("adapter"):
            compared = [self._compared(*level) for level in levels]
        losses = [sparse_imitation_loss(*pair, num_cells) for pair in compared]
        return self.total(dict(zip(self.taps, losses, strict=True)))

    def count(self, student: View, teacher: View, targets: Sequence[Target]) -> int:
        """The imitated cells of this process's batch on all levels, from the shapes of the maps and the boxes."""
        extents = self.extents(student)
        if isinstance(teacher, CachedView):
            return teacher.count(self.name, extents)
        return sum(int(mask.sum()) for mask in self.covered_masks(teacher, targets, extents))

    def _compared(
        self, adapter: Adapter, student: Tensor, teacher: TeacherTargets, step: float
    ) -> tuple[Tensor, Tensor]:
        """The adapted student and the teacher at the imitated cells, in the same shape."""
        if math.isclose(step, 1) and len(teacher.cells[0]) < self._sparse_below(student.device) * prod(teacher.size):
            return adapter.at(student, teacher.cells), teacher.vectors.flatten(0, -2)
        _, height, width = teacher.size
        # Sampling mixes neighbouring cells, so the imitated cells alone are not enough for it.
        adapted = at_teacher_cells(adapter(student), (height, width), step).permute(0, 2, 3, 1)
        if teacher.whole:
            return adapted, teacher.vectors.view(adapted.shape)
        image, row, column = teacher.cells
        # The backward pass of index_select is several times faster than that of indexing.
        return adapted.flatten(0, 2).index_select(0, (image * height + row) * width + column), teacher.vectors

    def _sparse_below(self, device: torch.device) -> float:
        if self.sparse_below is not None:
            return self.sparse_below
        return SPARSE_BELOW.get(device.type, SPARSE_BELOW["cuda"])

    def _imitated(self, teacher: View, targets: Sequence[Target]) -> list[tuple[int, int]]:
        """The imitated cells and all cells of each level."""
        return [(len(level.cells[0]), prod(level.size)) for level in self.teacher_targets(teacher, targets)]

    def _describe(self, teacher: View, targets: Sequence[Target], what: str) -> str:
        """The share of imitated cells, overall and on each level, for `describe`."""
        levels = self._imitated(teacher, targets)
        cells, total = map(sum, zip(*levels, strict=True))
        strides = [level.stride for level in teacher.levels]
        shares = [f"{n / size:.0%} at stride {stride}" for (n, size), stride in zip(levels, strides, strict=True)]
        return f"{cells / total:.0%} of cells {what}: {', '.join(shares)}"
