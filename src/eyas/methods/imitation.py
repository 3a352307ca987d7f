"""Feature imitation on the cells of a mask: the loss and the base class that `FGFI`, `BoxMask` and `FitNets` share.

Equation 2 of Wang et al., CVPR 2019: ``L = 1/(2 N_p) * sum_ij I_ij sum_c (adapt(s)_ijc - t_ijc)^2``. It is a sum over
channels, not a mean, and one average over the N_p imitated cells of the whole batch. A weight meant for it is several
hundred times too small for a mean over channels. The methods differ only in the mask I.

Maps are compared by position, not by size: two maps of one image may cover different extents of it, because detectors
pad inside. The teacher's cell j is centred at ``j + 0.5`` of its own cells, which is ``(j + 0.5) * step`` of the
student's; `LevelPair.step` is the quotient of the strides. With a step of 1, cell j is compared with cell j; otherwise
the adapted map is sampled there. Cells of the teacher that lie beyond the student's map, in the teacher's padding, are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyas.methods.adapter import Adapter, Cells
from eyas.methods.method import LevelPair, Method, Weight, count_per_process, ratio
from eyas.tools.timing import span
from eyas.types import EyasError, Size, Target, View

Rectify = Literal["auto", "always", "never"]
"""Whether an adaptation layer ends in a ReLU; ``auto`` adds one if the teacher's map is never negative."""


SPARSE_BELOW: Mapping[str, float] = {"cpu": 0.4, "cuda": 0.4}
"""Kind of device -> the share of imitated cells below which an adaptation layer is evaluated there alone, by default.

On a CPU the sparse form is still faster at 0.4 and above, and takes twice the memory of the dense one there
(`benchmarks.loss`). On a card it has not been measured: ``python -m benchmarks.gpu`` prints the value to set. Another
accelerator has the card's.
"""

Extents = Sequence[Size]
"""(H, W) of each level: the teacher's cells that the student's map covers, see `covered_extent`."""


class TeacherTargets(NamedTuple):
    """The teacher's vectors that the student imitates on one level of a batch.

    Attributes:
        cells: the N imitated cells of the teacher's map, image by image and row by row.
        vectors: (N, C), the teacher's features there; the whole map, (B, H, W, C), if every cell is imitated.
        size: (B, H, W) of the teacher's map, or of its part that the student's map covers.
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

    ``read`` returns the targets of a method, by its name, on each level; with the student's extents, see
    `covered_extent`, only those inside them. ``count`` returns how many cells that are, on all levels together.
    """

    read: Callable[[str, Extents | None], Sequence[TeacherTargets]] = field(kw_only=True)
    count: Callable[[str, Extents], int] = field(kw_only=True)

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


def covered_extent(student: Tensor, step: float) -> Size:
    """(H, W): rows and columns of the teacher's cells whose centres lie on the student's map (batch, C, h, w).

    The teacher's cell j is centred at ``(j + 0.5) * step`` of the student's cells.
    """
    return math.ceil(student.shape[-2] / step - 0.5), math.ceil(student.shape[-1] / step - 0.5)


def sample_cells(features: Tensor, size: Size, step: float) -> Tensor:
    """A map at the centres of another map's cells, bilinear; the border is repeated half a cell outwards.

    Args:
        features: (batch, C, h, w).
        size: (H, W), cells of the other map, as far as their centres lie on this one, see `covered_extent`.
        step: cells of this map from one cell of the other to the next; cell j is centred at ``(j + 0.5) * step``.

    Returns:
        (batch, C, H, W) float32.
    """
    # grid_sample's coordinates run from -1 to 1 over the extent of the map, edge to edge.
    y, x = (
        (torch.arange(count, device=features.device) + 0.5) * (2 * step / cells) - 1
        for count, cells in zip(size, features.shape[-2:], strict=True)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(len(features), -1, -1, -1)
    return F.grid_sample(features.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


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
        sparse_below: float | None = None,
    ) -> None:
        super().__init__(name, weight, start_step)
        self.require(kernel_size > 0 and kernel_size % 2 == 1, f"kernel_size must be odd and positive: {kernel_size}")
        self.require(rectify in get_args(Rectify), f"rectify is one of {get_args(Rectify)}, got {rectify!r}")
        self.require(init_std > 0, f"init_std must be positive, got {init_std}")
        self.kernel_size = kernel_size
        self.rectify = rectify
        self.init_std = init_std
        self.sparse_below = sparse_below
        self.steps: tuple[float, ...] = ()
        self.adapters = nn.ModuleList()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        self.steps = tuple(pair.step for pair in pairs)
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

    def select(self, teacher: View, targets: Sequence[Target], extents: Extents | None = None) -> list[TeacherTargets]:
        """The teacher's vectors to imitate on each level, from the maps of a teacher that ran.

        With the student's extents, only those inside them.
        """
        with span("mask"):
            masks = self._covered_masks(teacher, targets, extents)
            # A mask's size is that of the part of the map that is covered.
            maps = (
                map[..., : mask.shape[1], : mask.shape[2]] for map, mask in zip(teacher.features, masks, strict=True)
            )
            return [gather(feature, mask) for feature, mask in zip(maps, masks, strict=True)]

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        """The loss of one batch, a float32 scalar without its weight. All levels share one N_p."""
        teacher_targets = self.teacher_targets(teacher, targets, self._extents(student))
        num_cells = count_imitated_cells(teacher_targets)
        adapters = cast(list[Adapter], list(self.adapters))
        levels = zip(adapters, student.features, teacher_targets, self.steps, strict=True)
        with span("adapter"):
            compared = [self._compared(*level) for level in levels]
        return torch.stack([sparse_imitation_loss(*pair, num_cells) for pair in compared]).sum()

    def count(self, student: View, teacher: View, targets: Sequence[Target]) -> int:
        """The imitated cells of this process's batch on all levels, from the shapes of the maps and the boxes."""
        extents = self._extents(student)
        if isinstance(teacher, CachedView):
            return teacher.count(self.name, extents)
        return sum(int(mask.sum()) for mask in self._covered_masks(teacher, targets, extents))

    def teacher_targets(
        self, teacher: View, targets: Sequence[Target], extents: Extents | None = None
    ) -> Sequence[TeacherTargets]:
        """The teacher's vectors to imitate on each level, from the cache or, if the teacher ran, from `select`."""
        if isinstance(teacher, CachedView):
            return teacher.read(self.name, extents)
        return self.select(teacher, targets, extents)

    def _extents(self, student: View) -> Extents:
        return [covered_extent(feature, step) for feature, step in zip(student.features, self.steps, strict=True)]

    def _covered_masks(self, teacher: View, targets: Sequence[Target], extents: Extents | None) -> list[Tensor]:
        masks = self.masks(teacher, targets)
        if extents is None:
            return masks
        return [mask[:, :height, :width] for mask, (height, width) in zip(masks, extents, strict=True)]

    def _compared(
        self, adapter: Adapter, student: Tensor, teacher: TeacherTargets, step: float
    ) -> tuple[Tensor, Tensor]:
        """The adapted student and the teacher at the imitated cells, in the same shape."""
        same_cells = math.isclose(step, 1)
        if same_cells and len(teacher.cells[0]) < self._sparse_below(student.device) * prod(teacher.size):
            return adapter.at(student, teacher.cells), teacher.vectors.flatten(0, -2)
        _, height, width = teacher.size
        adapted = adapter(student)
        # Sampling mixes neighbouring cells, so the imitated cells alone are not enough for it.
        adapted = adapted[..., :height, :width] if same_cells else sample_cells(adapted, (height, width), step)
        adapted = adapted.permute(0, 2, 3, 1)
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
