"""Overlaps of anchors on a grid with boxes, axis by axis: what the near-object mask is made of.

IoU on an anchor grid is separable. All of it here is of the size of one axis, never of the grid.
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
"""Size, step and offset of a level's grid and its number of anchor shapes."""


def iou_of(intersection: Tensor, area_sum: Tensor) -> Tensor:
    """IoU from the intersection and the sum of both areas. Monotonic in the intersection, also after rounding."""
    return intersection / (area_sum - intersection)


def iou_limits(bound: Tensor, area_sum: Tensor) -> Tensor:
    """What an IoU above the bound takes: an intersection above F/(1+F) * (both areas), both areas, and F; stacked."""
    return torch.stack((bound / (1 + bound) * area_sum, area_sum, bound.expand_as(area_sum)))


class Overlaps(NamedTuple):
    """Anchors against boxes along one axis, or both: along x, y in dimension 0.

    An anchor's overlap with a box is a trapezoid in its row or column p: ``min(up + p*step, down - p*step, cap)``, or 0
    where that is negative. The cap is the shorter of the two lengths. It is written out, where min(ends) - max(starts)
    would do, because the plateau is then exactly constant: the whole is unimodal after rounding too, and one interval
    of cells is the truth and not nearly so.

    Attributes:
        up: pixels from the box's low edge to the high edge of the anchor in row or column 0.
        down: pixels from the low edge of the anchor in row or column 0 to the box's high edge.
        cap: pixels, the longest overlap there can be.
        step: pixels between neighbouring rows or columns.
        cells: rows or columns of the grid.
    """

    up: Tensor
    down: Tensor
    cap: Tensor
    step: Tensor
    cells: Tensor

    @classmethod
    def of(cls, anchors: Tensor, grid: GridTable, boxes: Tensor) -> Overlaps:
        """Both axes, (2, G, S), of S cell anchors and G boxes."""
        (anchor_low, anchor_high), (box_low, box_high) = anchors.t().view(2, 2, 1, -1), boxes.t().view(2, 2, -1, 1)
        cap = torch.minimum(anchor_high - anchor_low, box_high - box_low)
        up, down = anchor_high + grid.offset - box_low, box_high - (anchor_low + grid.offset)
        return cls(up, down, cap, grid.step, grid.cells)

    def along(self, axis: int) -> Overlaps:
        return Overlaps(*(part[axis] for part in self))

    def pick(self, pair: Tensor) -> Overlaps:
        """Those of some pairs (N,), numbered over (G, S)."""
        table = torch.stack([part.expand_as(self.up) for part in self])
        return Overlaps(*table.flatten(2).index_select(2, pair))

    def overlap(self, position: Tensor) -> Tensor:
        """Pixels of overlap at some rows or columns."""
        moved = position * self.step
        return torch.minimum(torch.minimum(self.up + moved, self.down - moved), self.cap).clamp_(min=0)

    def best_overlap(self) -> Tensor:
        """The largest overlap on the grid.

        The overlap is symmetric about the position that centres the anchor on the box, so one of the two grid positions
        around it is the best.
        """
        below = ((self.down - self.up) / (2 * self.step)).floor_()
        around = torch.minimum(torch.stack((below, below + 1)).clamp_(min=0), self.cells - 1)
        return self.overlap(around).amax(dim=0)

    def near(self, across: Tensor, limits: Tensor) -> Tensor:
        """The positions where IoU > bound, given the overlap along the other axis and `iou_limits`.

        The closed form of an end is off by rounding only where it falls on a cell to within an ulp. So the nearest cell
        alone is in doubt, and its IoU, computed as the reference computes it, decides: ties at the threshold come out
        the same.

        Returns:
            (2, ...) first position, and one past the last. Meaningless where the IoU exceeds the bound nowhere.
        """
        need, area_sum, bound = limits
        need = need / across
        ends = torch.stack((need - self.up, self.down - need)).div_(self.step).round_()
        near = iou_of(self.overlap(ends) * across, area_sum) > bound
        near[0].logical_not_()  # the first cell is the one after a cell that is not near
        return torch.minimum(ends.add_(near).clamp_(min=0), self.cells)


@dataclass(frozen=True, eq=False)
class GridTable:
    """The grids of all levels, for their anchor shapes as one axis of length S."""

    level: Tensor  # (S,)
    step: Tensor  # (2, 1, S) pixels; along x, y
    offset: Tensor  # (2, 1, S) pixels
    cells: Tensor  # (2, 1, S)
    start: Tensor  # (S,) cells of the finer levels, in one image
    area: Tensor  # (S,) cells of the level, in one image
    width: Tensor  # (S,) cells of a row
    row: Tensor  # (R,) every row of every shape, R = the sum of K * H over the levels
    row_shape: Tensor  # (R,) whose it is

    def rows_start(self, image: Tensor, images: int) -> Tensor:
        """(2, G, S) the number of the first cell that a box and a shape concern, and the cells from row to row.

        Cells are numbered level by level, image by image, row by row.
        """
        first = self.start * images + image[:, None] * self.area
        return torch.stack((first, self.width.expand_as(first)))


def grid_table(grids: Sequence[AnchorGrid], boxes: Tensor) -> GridTable:
    """The table of some grids, on the device and in the precision of the boxes."""
    keys = tuple((grid.size, grid.step, grid.offset, grid.num_shapes) for grid in grids)
    return _grid_table(keys, boxes.device, boxes.dtype)


@lru_cache(maxsize=64)
def _grid_table(grids: tuple[_GridKey, ...], device: torch.device, dtype: torch.dtype) -> GridTable:
    """Kept, because a training sees the same few image sizes again and again. Anchors are no part of it."""
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
