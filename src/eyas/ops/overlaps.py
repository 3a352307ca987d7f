"""Overlaps of anchors with boxes along each axis, from which `eyas.ops.near_objects` builds its masks.

IoU on an anchor grid is separable, so memory is O(H + W) per anchor shape and box, never O(H*W). In shapes, G is the
number of boxes and S the number of anchor shapes of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from eyas.ops.anchors import AnchorGrid

_GridKey = tuple[tuple[int, int], tuple[float, float], tuple[float, float], int]
"""(size, step, offset, number of anchor shapes) of a level's grid."""


def iou_of(intersection: Tensor, area_sum: Tensor) -> Tensor:
    """IoU from the intersection and the sum of both areas. It rises with the intersection, even after rounding."""
    return intersection / (area_sum - intersection)


def iou_limits(bound: Tensor, area_sum: Tensor) -> Tensor:
    """What `Overlaps.near` needs to test IoU > F, stacked as (3, G, S).

    These are the intersection at which IoU = F, which is ``F / (1 + F) * area_sum``; ``area_sum``, (G, S), the sum of
    both areas; and the bound F, (G, S) or (G, 1).
    """
    return torch.stack((bound / (1 + bound) * area_sum, area_sum, bound.expand_as(area_sum)))


class Overlaps(NamedTuple):
    """Anchors against boxes along one axis, or along both with x and y in dimension 0.

    An anchor's overlap with a box is a trapezoid in its row or column p: ``min(up + p*step, down - p*step, cap)``, or 0
    where that is negative. The cap, the shorter of the two lengths, is written out instead of using
    ``min(ends) - max(starts)``: the plateau is then exactly constant, so the rounded curve stays unimodal and the
    chosen cells form exactly one interval.

    Attributes:
        up: from the box's low edge to the high edge of the anchor in row or column 0, pixels.
        down: from the low edge of the anchor in row or column 0 to the box's high edge, pixels.
        cap: the longest possible overlap, pixels.
        step: distance of neighbouring rows or columns, pixels.
        cells: number of rows or columns of the grid.
    """

    up: Tensor
    down: Tensor
    cap: Tensor
    step: Tensor
    cells: Tensor

    @classmethod
    def of(cls, anchors: Tensor, grid: GridTable, boxes: Tensor) -> Overlaps:
        """Both axes, (2, G, S), from S cell anchors (S, 4) and G boxes (G, 4), both xyxy in pixels."""
        (anchor_low, anchor_high), (box_low, box_high) = anchors.t().view(2, 2, 1, -1), boxes.t().view(2, 2, -1, 1)
        cap = torch.minimum(anchor_high - anchor_low, box_high - box_low)
        up, down = anchor_high + grid.offset - box_low, box_high - (anchor_low + grid.offset)
        return cls(up, down, cap, grid.step, grid.cells)

    def along(self, axis: int) -> Overlaps:
        """One axis, (G, S): 0 is x, 1 is y."""
        return Overlaps(*(part[axis] for part in self))

    def pick(self, pair: Tensor) -> Overlaps:
        """Both axes, (2, N), of N pairs of box and shape, given as flat indices (N,) into (G, S)."""
        table = torch.stack([part.expand_as(self.up) for part in self])
        return Overlaps(*table.flatten(2).index_select(2, pair))

    def overlap(self, position: Tensor) -> Tensor:
        """The overlap at the given rows or columns, in pixels, at least 0."""
        moved = position * self.step
        return torch.minimum(torch.minimum(self.up + moved, self.down - moved), self.cap).clamp_(min=0)

    def best_overlap(self) -> Tensor:
        """The largest overlap on the grid, in pixels.

        The overlap is symmetric about the position that centres the anchor on the box, so the best grid position is one
        of the two around it.
        """
        below = ((self.down - self.up) / (2 * self.step)).floor_()
        around = torch.minimum(torch.stack((below, below + 1)).clamp_(min=0), self.cells - 1)
        return self.overlap(around).amax(dim=0)

    def near(self, across: Tensor, limits: Tensor) -> Tensor:
        """The rows or columns where IoU > bound, given the overlap along the other axis and `iou_limits`.

        Rounding can move the closed form of an end only across a cell that it meets to within an ulp. So only the
        nearest cell is in doubt. Its IoU, computed exactly as in the reference, decides: ties at the threshold are
        resolved the same way.

        Returns:
            The first position and one past the last, (2, ...). Meaningless where IoU exceeds the bound nowhere.
        """
        need, area_sum, bound = limits
        need = need / across
        ends = torch.stack((need - self.up, self.down - need)).div_(self.step).round_()
        near = iou_of(self.overlap(ends) * across, area_sum) > bound
        near[0].logical_not_()  # if the nearest cell is not near, the first near one follows it
        return torch.minimum(ends.add_(near).clamp_(min=0), self.cells)


@dataclass(frozen=True, eq=False)
class GridTable:
    """The grids of all levels, with their anchor shapes as one axis of length S."""

    level: Tensor  # (S,) level of each shape
    step: Tensor  # (2, 1, S) pixels, along x and y
    offset: Tensor  # (2, 1, S) pixels, along x and y
    cells: Tensor  # (2, 1, S) columns and rows
    start: Tensor  # (S,) cells of all finer levels, per image
    area: Tensor  # (S,) cells of the level, per image
    width: Tensor  # (S,) cells per row
    row: Tensor  # (R,) every row of every shape, R = the sum of K * H over the levels
    row_shape: Tensor  # (R,) the shape of each row

    def rows_start(self, image: Tensor, images: int) -> Tensor:
        """The number of the first cell of each box's image and shape's level, and the cells per row: (2, G, S).

        Cells are numbered level by level, image by image, row by row. ``image``, (G,), is the image index of each box;
        ``images`` is the number of images.
        """
        first = self.start * images + image[:, None] * self.area
        return torch.stack((first, self.width.expand_as(first)))


def grid_table(grids: Sequence[AnchorGrid], boxes: Tensor) -> GridTable:
    """The table of these grids, on the device and in the dtype of the boxes."""
    keys = tuple((grid.size, grid.step, grid.offset, grid.num_shapes) for grid in grids)
    return _grid_table(keys, boxes.device, boxes.dtype)


@lru_cache(maxsize=64)
def _grid_table(grids: tuple[_GridKey, ...], device: torch.device, dtype: torch.dtype) -> GridTable:
    """Cached, because training sees the same few image sizes again and again. The key leaves out the cell anchors."""
    level = torch.arange(len(grids)).repeat_interleave(torch.tensor([shapes for *_, shapes in grids]))
    pixels = torch.tensor([(step[::-1], offset[::-1], size[::-1]) for size, step, offset, _ in grids], dtype=dtype)
    step, offset, cells = pixels[level].permute(1, 2, 0)[:, :, None].contiguous()
    sizes = [size for size, *_ in grids]
    areas = [height * width for height, width in sizes]
    start, area, width = torch.tensor([[0, *accumulate(areas[:-1])], areas, [width for _, width in sizes]])[:, level]
    heights = cells[1, 0].long()
    row = torch.cat([torch.arange(height) for height in heights.tolist()])
    row_shape = torch.arange(len(level)).repeat_interleave(heights)
    parts = (level, step, offset, cells, start, area, width, row, row_shape)
    return GridTable(*(part.to(device) for part in parts))
