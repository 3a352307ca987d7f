"""Cells of the teacher's maps: which ones a method compares, their vectors, and where they lie on the student's maps.

Maps are compared by position, not by size: two maps of one image may cover different extents of it, because detectors
pad inside. The teacher's cell j is centred at ``j + 0.5`` of its own cells, which is ``(j + 0.5) * step`` of the
student's; `LevelPair.step` is the quotient of the strides. With a step of 1, cell j is compared with cell j; otherwise
the adapted map is sampled there. Cells of the teacher that lie beyond the student's map, in the teacher's padding, are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.methods.adapter import Cells
from eyas.methods.method import LevelPair, Method, Weight
from eyas.methods.schedule import Schedule
from eyas.tools.timing import span
from eyas.types import EyasError, Size, Target, View

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


def whole_map(targets: TeacherTargets) -> Tensor:
    """The map (B, C, H, W) of targets at every cell of each image.

    A cache has no cells in the padding of an image that is smaller than its batch. Each channel has its mean over the
    image's own cells there, a filler that carries no information.
    """
    (image, row, column), vectors, (batch, height, width) = targets
    if not targets.whole:
        counts = torch.bincount(image, minlength=batch).clamp(min=1)[:, None]
        means = vectors.new_zeros(batch, vectors.shape[1]).float().index_add_(0, image, vectors.float()) / counts
        whole = means[:, None, None].repeat(1, height, width, 1)
        whole[image, row, column] = vectors.float()
        vectors = whole
    return vectors.view(batch, height, width, -1).permute(0, 3, 1, 2)


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


def covered_extent(student: Tensor, step: float) -> Size:
    """(H, W): rows and columns of the teacher's cells whose centres lie on the student's map (batch, C, h, w).

    The teacher's cell j is centred at ``(j + 0.5) * step`` of the student's cells. At least one row and column: a map
    that ends before the first centre is repeated up to it.
    """
    height, width = student.shape[-2:]
    return max(1, math.ceil(height / step - 0.5)), max(1, math.ceil(width / step - 0.5))


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


def at_teacher_cells(adapted: Tensor, size: Size, step: float) -> Tensor:
    """A student's adapted map (batch, C, h, w) at the teacher's (H, W) cells, by its ``step`` as in `sample_cells`.

    Where that is 1 the map is cut, else sampled.
    """
    return adapted[..., : size[0], : size[1]] if math.isclose(step, 1) else sample_cells(adapted, size, step)


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


def every_cell(view: View) -> list[Tensor]:
    """The mask of all cells of each level of a view, (batch, H, W) bool, on the CPU."""
    sizes = [(len(feature), *feature.shape[-2:]) for feature in view.features]
    return [torch.ones(size, dtype=torch.bool, device="cpu") for size in sizes]


class CellMethod(Method):
    """Base class of the methods that compare the teacher's vectors at cells.

    A subclass selects the cells in `masks`. Where it reads nothing else of the teacher, a cache can hold them, and it
    names the options that select them in `fingerprint`.
    """

    def __init__(self, name: str, weight: Weight, schedule: Schedule) -> None:
        super().__init__(name, weight, schedule)
        self.steps: tuple[float, ...] = ()
        self.taps: tuple[str, ...] = ()

    def setup(self, pairs: Sequence[LevelPair]) -> None:
        self.steps = tuple(pair.step for pair in pairs)
        self.taps = tuple(pair.student_tap for pair in pairs)

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The cells of each level to compare, (batch, H, W) bool, on the teacher's grids.

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
            masks = self.covered_masks(teacher, targets, extents)
            # A mask's size is that of the part of the map that is covered.
            maps = (
                map[..., : mask.shape[1], : mask.shape[2]] for map, mask in zip(teacher.features, masks, strict=True)
            )
            return [gather(feature, mask) for feature, mask in zip(maps, masks, strict=True)]

    def teacher_targets(
        self, teacher: View, targets: Sequence[Target], extents: Extents | None = None
    ) -> Sequence[TeacherTargets]:
        """The teacher's vectors to imitate on each level, from the cache or, if the teacher ran, from `select`."""
        if isinstance(teacher, CachedView):
            return teacher.read(self.name, extents)
        return self.select(teacher, targets, extents)

    def extents(self, student: View) -> Extents:
        """The teacher's cells that the student's map of each level covers."""
        return [covered_extent(feature, step) for feature, step in zip(student.features, self.steps, strict=True)]

    def covered_masks(self, teacher: View, targets: Sequence[Target], extents: Extents | None) -> list[Tensor]:
        """`masks`, of which only the part inside the extents is left, if they are given."""
        masks = self.masks(teacher, targets)
        if extents is None:
            return masks
        return [mask[:, :height, :width] for mask, (height, width) in zip(masks, extents, strict=True)]
