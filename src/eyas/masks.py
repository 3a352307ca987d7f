"""Near-object masks: which cells of a feature map the student imitates (Wang et al., CVPR 2019, section 3.1).

For a ground-truth box g, ``M_g`` is the best IoU of any anchor with it, and a cell is *near* g when one of its K
anchors has IoU > psi * M_g. The mask of an image is the union over its boxes.

IoU on an anchor grid is separable, so the G x H x W x K table of the textbook never exists here. The overlap of anchor
shape k at column j with box g is ``w[g, k, j]``, a trapezoid in j, and its overlap at row i is ``h[g, k, i]``. IoU
grows with ``w * h``, hence

- the best IoU of (g, k) on the grid is the one at ``max_j w`` and ``max_i h``, next to the centre of the box;
- in one row, the near columns are those where w exceeds some bound, and a trapezoid exceeds a bound on ONE interval.

So the mask is a union of G*K*H intervals, whose ends have a closed form: +1 and -1 at the ends, then a cumulative sum
along the row. The cost is O(G*K*H + H*W) in place of O(G*K*H*W). All levels go through as one flat axis, so a detector
with five levels costs no more calls than one with a single level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from eyas.anchors import AnchorGrid

Assignment = Literal["global", "per_level", "by_size"]
"""Which anchors ``M_g`` is the maximum over when a detector has several feature levels.

- ``global``: all anchors of all levels: an object is near only where its anchors fit, mostly on one or two levels.
- ``per_level``: the anchors of each level: every object is near some cells of every level.
- ``by_size``: an object belongs to one level, by the detector's own rule, and is near cells of that level only.
"""


Interval = tuple[Tensor, Tensor, Tensor]


def near_object_masks(
    grids: Sequence[AnchorGrid],
    boxes: Sequence[Tensor],
    *,
    psi: float = 0.5,
    assignment: Assignment = "global",
    box_ranges: Sequence[tuple[float, float] | None] | None = None,
) -> list[Tensor]:
    """The near-object mask of every image on every level, exactly.

    Args:
        grids: the anchors of each level, L of them.
        boxes: for each of the B images its (n, 4) ground-truth boxes, xyxy in pixels; n may be 0.
        psi: share of the best IoU that an anchor must exceed, in [0, 1]. 0 takes every cell one of whose anchors
            touches a box; 1 takes none, the comparison being strict.
        assignment: see `Assignment`.
        box_ranges: for ``by_size``: per level the (low, high) pixels with low <= sqrt(area) < high that belong to it.
            Entries that are None are derived from the grids, see `size_ranges`.

    Returns:
        L boolean tensors (B, H, W), on the device of the boxes.

    Raises:
        ValueError: psi outside [0, 1], an unknown assignment, or no level.
    """
    _check(grids, psi, assignment)
    flat, image = _flatten(boxes)
    shapes = _Shapes.of(grids, flat)
    best_width = shapes.best_overlap(0, flat)
    best = shapes.best_iou(best_width * shapes.best_overlap(1, flat), flat)
    bounds = _assign(psi * best, flat, assignment, grids, box_ranges)
    rows = _rows(tuple((*grid.size, grid.num_shapes) for grid in grids), flat.device)
    intervals = _near_columns(rows, shapes, flat, best_width, bounds)
    return _fill(grids, intervals, image, len(boxes))


def near_object_masks_reference(
    grids: Sequence[AnchorGrid],
    boxes: Sequence[Tensor],
    *,
    psi: float = 0.5,
    assignment: Assignment = "global",
    box_ranges: Sequence[tuple[float, float] | None] | None = None,
) -> list[Tensor]:
    """What `near_object_masks` computes, straight from the definition: the IoU of every anchor with every box.

    For tests and benchmarks. Same arguments, same result; time and memory O(G*K*H*W).
    """
    _check(grids, psi, assignment)
    flat, image = _flatten(boxes)
    ious = [_iou_table(grid, flat) for grid in grids]
    best = torch.stack([table.flatten(1).amax(1) for table in ious])
    bounds = _assign(psi * best, flat, assignment, grids, box_ranges)
    masks = []
    for grid, table, bound in zip(grids, ious, bounds, strict=True):
        near = (table > bound[:, None, None, None]).any(dim=3)
        mask = torch.zeros(len(boxes), *grid.size, dtype=torch.int32, device=flat.device)
        masks.append(mask.index_add_(0, image, near.int()) > 0)
    return masks


def size_ranges(
    grids: Sequence[AnchorGrid], declared: Sequence[tuple[float, float] | None] | None = None
) -> list[tuple[float, float]]:
    """Which boxes belong to each level, as (low, high) pixels of sqrt(area), for ``by_size``.

    A declared range (the detector's own rule) is kept. The others follow from the anchors: the border between two
    neighbouring levels is the geometric mean of their typical anchor sides, so that a box goes to the level whose
    anchors are nearest to it in scale.

    Returns:
        One half-open range per level; the derived ones cover (0, inf) without gaps.
    """
    sides = [_typical_side(grid) for grid in grids]
    borders = [0.0, *(math.sqrt(fine * coarse) for fine, coarse in pairwise(sides)), math.inf]
    derived = list(pairwise(borders))
    if declared is None:
        return derived
    return [own if own is not None else fallback for own, fallback in zip(declared, derived, strict=True)]


def _typical_side(grid: AnchorGrid) -> float:
    width, height = _extent(grid.cell_anchors)
    return math.exp(float((width * height).log().mean()) / 2)


def _check(grids: Sequence[AnchorGrid], psi: float, assignment: str) -> None:
    if not grids:
        raise ValueError("a near-object mask needs at least one anchor grid")
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must lie in [0, 1], got {psi}")
    if assignment not in get_args(Assignment):
        raise ValueError(f"assignment must be one of {', '.join(get_args(Assignment))}, got {assignment!r}")


def _flatten(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All boxes, (G, 4), and the image each is of, (G,). Coordinates in float64 where the device has it."""
    device = boxes[0].device if boxes else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([box.reshape(-1, 4) for box in boxes]).to(dtype) if boxes else torch.zeros(0, 4, dtype=dtype)
    image = torch.tensor([i for i, box in enumerate(boxes) for _ in range(len(box))], dtype=torch.int64)
    return flat, image.to(device, non_blocking=True)


def _extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def _area(boxes: Tensor) -> Tensor:
    width, height = _extent(boxes)
    return width.clamp(min=0) * height.clamp(min=0)


def _iou(intersection: Tensor, area_sum: Tensor) -> Tensor:
    """IoU from the intersection and the sum of both areas. Monotonic in the intersection, also after rounding."""
    return intersection / (area_sum - intersection)


def _assign(
    bounds: Tensor,
    boxes: Tensor,
    assignment: Assignment,
    grids: Sequence[AnchorGrid],
    box_ranges: Sequence[tuple[float, float] | None] | None,
) -> Tensor:
    """(L, G) IoU bounds from the levels' own: one per level, shared, or out of reach on all levels but one."""
    if assignment == "global":
        return bounds.amax(dim=0, keepdim=True).expand_as(bounds)
    if assignment == "by_size":
        side = _area(boxes).sqrt()
        ranges = torch.tensor(size_ranges(grids, box_ranges), dtype=boxes.dtype)
        low, high = ranges.to(boxes.device, non_blocking=True).unbind(1)
        inside = (side >= low[:, None]) & (side < high[:, None])
        return bounds.masked_fill(~inside, math.inf)
    return bounds


def _overlap_1d(anchor: Interval, box: Interval) -> Tensor:
    """Length of the overlap of two intervals, (low, high, length) each; 0 where they are apart.

    Written with the two lengths as caps, not as min(ends) - max(starts): the plateau of the trapezoid is then exactly
    constant, so the whole is unimodal after rounding too, and one interval of columns is the truth and not nearly so.
    """
    cap = torch.minimum(anchor[2], box[2])
    return torch.minimum(torch.minimum(anchor[1] - box[0], box[1] - anchor[0]), cap).clamp_(min=0)


def _interval(boxes: Tensor, axis: int) -> Interval:
    """(low, high, length) of boxes (..., 4) along x (axis 0) or y (axis 1)."""
    low, high = boxes[..., axis], boxes[..., axis + 2]
    return low, high, high - low


def _shift(interval: Interval, origin: Tensor) -> Interval:
    return interval[0] + origin, interval[1] + origin, interval[2]


def _at(interval: Interval, index: Tensor) -> Interval:
    return interval[0][index], interval[1][index], interval[2][index]


@dataclass(frozen=True, eq=False)
class _Shapes:
    """The anchor shapes of all levels as one axis of length S, each with the geometry of its level's grid."""

    cell_anchors: Tensor  # (S, 4)
    level: Tensor  # (S,)
    counts: list[int]  # K of each level, L of them
    size: Tensor  # (2, S) columns, rows of the level
    step: Tensor  # (2, S) along x, y
    offset: Tensor  # (2, S) along x, y

    @classmethod
    def of(cls, grids: Sequence[AnchorGrid], boxes: Tensor) -> _Shapes:
        rows = [(*grid.size[::-1], *grid.step[::-1], *grid.offset[::-1]) for grid in grids]
        geometry = torch.tensor(rows, dtype=boxes.dtype)
        level = torch.tensor([i for i, grid in enumerate(grids) for _ in range(grid.num_shapes)])
        size, step, offset = geometry[level].t().contiguous().to(boxes.device, non_blocking=True).split(2)
        cell_anchors = torch.cat([grid.cell_anchors for grid in grids]).to(boxes, non_blocking=True)
        return cls(
            cell_anchors,
            level.to(boxes.device, non_blocking=True),
            [grid.num_shapes for grid in grids],
            size,
            step,
            offset,
        )

    def best_overlap(self, axis: int, boxes: Tensor) -> Tensor:
        """(G, S) the largest overlap of each shape with each box at any column (axis 0) or row (axis 1) of its grid.

        The overlap is symmetric about the position that centres the anchor on the box, so one of the two grid positions
        around it is the best.
        """
        anchor, box = _interval(self.cell_anchors, axis), _interval(boxes[:, None], axis)
        centre = ((box[0] + box[1]) - (anchor[0] + anchor[1])) / 2
        below = ((centre - self.offset[axis]) / self.step[axis]).floor()
        overlaps = []
        for position in (below, below + 1):
            position = torch.minimum(position.clamp(min=0), self.size[axis] - 1)
            overlaps.append(_overlap_1d(_shift(anchor, position * self.step[axis] + self.offset[axis]), box))
        return torch.maximum(*overlaps)

    def best_iou(self, intersection: Tensor, boxes: Tensor) -> Tensor:
        """(L, G) the best IoU of any anchor of each level with each box, from the best intersections (G, S)."""
        iou = _iou(intersection, _area(boxes)[:, None] + _area(self.cell_anchors))
        return torch.stack([level.amax(dim=1) for level in iou.split(self.counts, dim=1)])


@dataclass(frozen=True, eq=False)
class _Rows:
    """Every row of every anchor shape, as one axis of length R."""

    shape: Tensor  # (R,) which shape
    row: Tensor  # (R,) which row of its level
    cell: Tensor  # (R,) where the row starts in an image's difference array


@lru_cache(maxsize=64)
def _rows(levels: tuple[tuple[int, int, int], ...], device: torch.device) -> _Rows:
    """The rows of levels of (H, W, K). Kept, because a training sees the same few image sizes again and again."""
    shapes = [
        (height, width, start)
        for (height, width, k), start in zip(levels, _starts(levels), strict=False)
        for _ in range(k)
    ]
    row = torch.cat([torch.arange(height) for height, _, _ in shapes])
    cell = torch.cat([start + (width + 1) * torch.arange(height) for height, width, start in shapes])
    shape = torch.arange(len(shapes)).repeat_interleave(torch.tensor([height for height, _, _ in shapes]))
    return _Rows(shape.to(device), row.to(device), cell.to(device))


@dataclass(frozen=True, eq=False)
class _Intervals:
    """Runs of near cells, as places in the difference array of an image."""

    box: Tensor  # (N,) whose
    start: Tensor  # (N,) first cell
    stop: Tensor  # (N,) one past the last; equal to start where nothing is near


def _near_columns(rows: _Rows, shapes: _Shapes, boxes: Tensor, best_width: Tensor, bounds: Tensor) -> _Intervals:
    """The columns of every row where IoU > bound.

    That is width > need, with need = F/(1+F) * (both areas) / height. The closed form of an end is off by rounding only
    where it falls on a column to within an ulp. So the nearest column alone is in doubt, and its IoU, computed as the
    reference computes it, decides: ties at the threshold come out the same.
    """
    anchors = shapes.cell_anchors[rows.shape]
    origin = rows.row * shapes.step[1, rows.shape] + shapes.offset[1, rows.shape]
    height = _overlap_1d(_shift(_interval(anchors, 1), origin), _interval(boxes[:, None], 1))
    area_sum = _area(boxes)[:, None] + _area(anchors)
    bound = bounds.t()[:, shapes.level[rows.shape]]
    possible = _iou(best_width[:, rows.shape] * height, area_sum) > bound
    box, row = possible.nonzero(as_tuple=True)
    shape = rows.shape[row]
    height, area_sum, bound = (table[box, row] for table in (height, area_sum, bound))
    anchor, edge = _at(_interval(shapes.cell_anchors, 0), shape), _at(_interval(boxes, 0), box)
    columns, step, offset = shapes.size[0, shape], shapes.step[0, shape], shapes.offset[0, shape]

    def is_near(column: Tensor) -> Tensor:
        width = _overlap_1d(_shift(anchor, column * step + offset), edge)
        return _iou(width * height, area_sum) > bound

    need = bound / (1 + bound) * area_sum / height
    rising = ((need + edge[0] - anchor[1] - offset) / step).round()
    falling = ((edge[1] - anchor[0] - need - offset) / step).round()
    first = torch.where(is_near(rising), rising, rising + 1).clamp(min=0)
    stop = torch.minimum(torch.where(is_near(falling), falling + 1, falling), columns)
    start = torch.minimum(first, stop.clamp_(min=0))
    return _Intervals(box, rows.cell[row] + start.long(), rows.cell[row] + stop.long())


def _fill(grids: Sequence[AnchorGrid], intervals: _Intervals, image: Tensor, images: int) -> list[Tensor]:
    """(images, H, W) masks of each level: +1 at each start, -1 at each stop, then a cumulative sum along the row."""
    *starts, total = _starts([grid.size for grid in grids])
    steps = torch.zeros(images * total, dtype=torch.int32, device=image.device)
    base = image[intervals.box] * total
    one = steps.new_ones(()).expand(len(base))
    steps.index_add_(0, base + intervals.start, one).index_add_(0, base + intervals.stop, one, alpha=-1)
    masks = []
    for grid, start in zip(grids, starts, strict=True):
        height, width = grid.size
        level = steps.view(images, total)[:, start : start + height * (width + 1)].view(images, height, width + 1)
        masks.append(level[..., :width].cumsum(dim=2, dtype=torch.int32) > 0)
    return masks


def _starts(levels: Sequence[tuple[int, ...]]) -> list[int]:
    """Where each level (H, W, ...) starts in an image's difference array, H x (W + 1) places each; then the total."""
    return [0, *accumulate(height * (width + 1) for height, width, *_ in levels)]


def _iou_table(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """(G, H, W, K) IoU of every anchor of the grid with every box."""
    cell_anchors = grid.cell_anchors.to(boxes)
    rows, columns = (grid.origins(axis, device=boxes.device, dtype=boxes.dtype) for axis in (0, 1))
    box = boxes[:, None, None, None, :]
    width = _overlap_1d(_shift(_interval(cell_anchors, 0), columns[None, :, None]), _interval(box, 0))
    height = _overlap_1d(_shift(_interval(cell_anchors, 1), rows[:, None, None]), _interval(box, 1))
    return _iou(width * height, _area(boxes)[:, None, None, None] + _area(cell_anchors))
