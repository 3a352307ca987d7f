"""Feature imitation on the cells of a mask: the loss and the base class that `FGFI`, `BoxMask` and `FitNets` share.

Equation 2 of Wang et al., CVPR 2019: ``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over
channels, not a mean, and one average over the N_p imitated cells of the whole batch. A weight meant for it is several
hundred times too small for a mean over channels. The methods differ only in the mask I.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.adapter import Adapter, Cells
from eyas.methods.method import LevelPair, Method, Weight, count_per_process, ratio
from eyas.tools.timing import span
from eyas.types import EyasError, Target, View

Rectify = Literal["auto", "always", "never"]
"""Whether an adaptation layer ends in a ReLU; ``auto`` adds one if the teacher's map is never negative."""


class TeacherTargets(NamedTuple):
    """The teacher's vectors that the student imitates on one level of a batch.

    Attributes:
        cells: the N imitated cells of the teacher's map, image by image and row by row.
        vectors: (N, C), the teacher's features there; the whole map, (B, H, W, C), if every cell is imitated.
        size: (B, H, W) of the teacher's map.
    """

    cells: Cells
    vectors: Tensor
    size: tuple[int, int, int]

    @property
    def whole(self) -> bool:
        """Whether every cell is imitated."""
        return len(self.cells[0]) == prod(self.size)


@dataclass(frozen=True)
class CachedView(View):
    """A teacher's view from the cache: no maps and no grids, only the targets of each method.

    ``read`` returns the targets of a method on each level, by the method's name.
    """

    read: Callable[[str], Sequence[TeacherTargets]] = field(kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grids", ())


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


def gather(features: Tensor, mask: Tensor) -> TeacherTargets:
    """The teacher's features (batch, C, H, W) at the cells of a mask (batch, H, W).

    This needs the number of cells, so with a mask on a GPU the host waits for the device.
    """
    image, row, column = (to_device_async(axis, features.device) for axis in mask.nonzero(as_tuple=True))
    vectors = features.permute(0, 2, 3, 1)
    if len(image) < mask.numel():
        vectors = vectors[image, row, column]
    return TeacherTargets((image, row, column), vectors, (mask.shape[0], mask.shape[1], mask.shape[2]))


def to_device_async(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to a device. The host does not wait for a copy to a GPU."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def count_imitated_cells(teacher_targets: Sequence[TeacherTargets]) -> Tensor:
    """N_p of equation 2: the imitated cells (FGFI's near cells) on all levels and images of the batch.

    A float32 scalar on the teacher's device. R processes each get N_p / R, see `count_per_process`.
    """
    count = sum(len(level.cells[0]) for level in teacher_targets)
    return count_per_process(torch.full((), count, dtype=torch.float32, device=teacher_targets[0].vectors.device))


class FeatureImitation(Method):
    """Base class of the methods that imitate feature maps on some cells. A subclass selects the cells in `masks`.

    The loss is equation 2 of Wang et al.: squared differences, summed over channels and averaged over the imitated
    cells of all levels and images of the batch, halved. Each level pair has its own adaptation layer. Arguments and
    errors are those of `FGFI`.
    """

    def __init__(
        self,
        name: str,
        weight: Weight,
        start_step: int,
        kernel_size: int,
        rectify: Rectify,
        init_std: float,
        sparse_below: float = 0.4,
    ) -> None:
        super().__init__(name, weight, start_step)
        self.require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive: {kernel_size}")
        self.require(rectify in get_args(Rectify), f"rectify is one of {get_args(Rectify)}, got {rectify!r}")
        self.require(init_std > 0, f"init_std must be positive, got {init_std}")
        self.kernel_size = kernel_size
        self.rectify = rectify
        self.init_std = init_std
        self.sparse_below = sparse_below
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
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

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The imitated cells of each level, (batch, H, W) bool, on the teacher's grids.

        On the CPU where possible, so that nothing waits for the GPU, see `eyas.types.host_boxes`.
        """
        raise NotImplementedError

    def fingerprint(self) -> dict[str, object]:
        raise EyasError(
            f"{type(self).__name__} has no fingerprint() of its own, so a cache cannot tell its masks from others: add "
            "one that returns the options of masks(), or leave --cache out"
        )

    def select(self, teacher: View, targets: Sequence[Target]) -> list[TeacherTargets]:
        """The teacher's vectors to imitate on each level, from the maps of a teacher that ran."""
        with span("mask"):
            masks = self.masks(teacher, targets)
            return [gather(feature, mask) for feature, mask in zip(teacher.features, masks, strict=True)]

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The loss of one batch, a float32 scalar without its weight. All levels share one N_p."""
        teacher_targets = self.teacher_targets(teacher, targets)
        num_cells = count_imitated_cells(teacher_targets)
        levels = zip(cast(list[Adapter], list(self.adapters)), student.features, teacher_targets, strict=True)
        with span("adapter"):
            compared = [self._compared(*level) for level in levels]
        return torch.stack([sparse_imitation_loss(*pair, num_cells) for pair in compared]).sum()

    def teacher_targets(self, teacher: View, targets: Sequence[Target]) -> Sequence[TeacherTargets]:
        """The teacher's vectors to imitate on each level, from the cache or, if the teacher ran, from `select`."""
        return teacher.read(self.name) if isinstance(teacher, CachedView) else self.select(teacher, targets)

    def _compared(self, adapter: Adapter, student: Tensor, teacher: TeacherTargets) -> tuple[Tensor, Tensor]:
        """The adapted student and the teacher at the imitated cells, in the same shape."""
        resized = student.shape[-2:] != teacher.size[1:]
        if not resized and len(teacher.cells[0]) < self.sparse_below * prod(teacher.size):
            return adapter.at(student, teacher.cells), teacher.vectors.flatten(0, -2)
        adapted = adapter(student)
        if resized:
            # Resizing mixes neighbouring cells, so the imitated cells alone are not enough.
            adapted = F.interpolate(adapted, teacher.size[1:], mode="bilinear", align_corners=False)
        adapted = adapted.permute(0, 2, 3, 1)
        if teacher.whole:
            return adapted, teacher.vectors.view(adapted.shape)
        image, row, column = teacher.cells
        _, height, width = teacher.size
        # The backward pass of index_select is several times faster than that of indexing.
        return adapted.flatten(0, 2).index_select(0, (image * height + row) * width + column), teacher.vectors

    def _describe(self, teacher: View, targets: Sequence[Target], what: str) -> str:
        """The share of imitated cells, overall and on each level, for `describe`."""
        levels = [(len(level.cells[0]), prod(level.size)) for level in self.teacher_targets(teacher, targets)]
        cells, total = map(sum, zip(*levels, strict=True))
        strides = [level.stride for level in teacher.levels]
        shares = [f"{n / size:.0%} at stride {stride}" for (n, size), stride in zip(levels, strides, strict=True)]
        return f"{cells / total:.0%} of cells {what}: {', '.join(shares)}"
