"""Near-object masks: which cells of a feature map the student imitates (Wang et al., CVPR 2019, section 3.1).

For a ground-truth box g, ``M_g`` is the best IoU of any anchor with it, and a cell is *near* g when one of its K
anchors has IoU > psi * M_g. The mask of an image is the union over its boxes.

IoU on an anchor grid is separable, so the G x H x W x K table of the textbook never exists here. The overlap of anchor
shape k at column j with box g is ``w[g, k, j]``, a trapezoid in j, and its overlap at row i is ``h[g, k, i]``. IoU
grows with ``w * h``, hence

- the best IoU of (g, k) on the grid is the one at ``max_j w`` and ``max_i h``, next to the centre of the box;
- the near rows are those where h exceeds some bound given ``max_j w``; in one row, the near columns are those where w
  exceeds some bound given h; and a trapezoid exceeds a bound on ONE interval.

So the mask is a union of at most G*K*H intervals, whose ends have a closed form: +1 and -1 at the ends, then one
cumulative sum. The cost is O(G*K*H + H*W) in place of O(G*K*H*W). The anchor shapes of all levels are one flat axis of
length S, so a detector with five levels costs no more calls than one with a single level.
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


_LevelKey = tuple[tuple[int, int], tuple[float, float], tuple[float, float], int]
"""Size, step and offset of a level's grid and its number of anchor shapes."""


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
    layout = _layout(tuple(_key(grid) for grid in grids), flat.device, flat.dtype)
    anchors = torch.cat([grid.cell_anchors for grid in grids]).to(flat, non_blocking=True)
    shape, box = torch.cat((_edges(anchors), layout.geometry)), _edges(flat)
    area_sum = _area(flat)[:, None] + _area(anchors)

    overlap = _best_overlap(shape[:, :, None], box[..., None])
    iou = _iou(overlap[0] * overlap[1], area_sum)
    bounds = _assign(psi * _best_of_levels(iou, layout.level, len(grids)), flat, assignment, grids, box_ranges)
    bound = bounds[layout.level].t()

    rows = _near_interval(shape[:, 1, None], box[:, 1, :, None], overlap[0], area_sum, bound)
    tallest = max(grid.size[0] for grid in grids)
    pair, row, exists = _list_rows(*torch.where(iou > bound, rows, 0).long().flatten(1), tallest)
    which_shape, which_box = pair % len(anchors), pair // len(anchors)
    shape, box = shape.index_select(2, which_shape), box.index_select(2, which_box)
    area_sum, bound = area_sum.take(pair), bound.take(pair)
    height = _overlap_at(row, shape[:, 1], box[:, 1])
    columns = _near_interval(shape[:, 0], box[:, 0], height, area_sum, bound)
    cells = layout.cell(image.index_select(0, which_box), which_shape, row)
    return _fill(grids, cells + torch.where(exists, columns, 0).long(), len(boxes))


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
    if len(declared) != len(grids):
        raise ValueError(f"box_ranges needs one entry per level, {len(grids)} in all, got {len(declared)}")
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


def _overlap(low: Tensor, high: Tensor, length: Tensor, box: Tensor) -> Tensor:
    """Length of the overlap of two intervals along one axis, the second one given as (3, ...); 0 where they are apart.

    Written with the two lengths as caps, not as min(ends) - max(starts): the plateau of the trapezoid is then exactly
    constant, so the whole is unimodal after rounding too, and one interval of cells is the truth and not nearly so.
    """
    cap = torch.minimum(length, box[2])
    return torch.minimum(torch.minimum(high - box[0], box[1] - low), cap).clamp_(min=0)


def _edges(boxes: Tensor) -> Tensor:
    """(3, 2, n) low edge, high edge and length, along x and y, of (n, 4) boxes."""
    low, high = boxes.view(-1, 2, 2).permute(1, 2, 0)
    return torch.stack((low, high, high - low))


def _overlap_at(position: Tensor, shape: Tensor, box: Tensor) -> Tensor:
    """Overlap along one axis of a shape (6, ...), see `_Layout`, at some row or column with a box (3, ...)."""
    low, high, length, step, offset, _ = shape
    origin = position * step + offset
    return _overlap(low + origin, high + origin, length, box)


def _best_overlap(shape: Tensor, box: Tensor) -> Tensor:
    """The largest overlap of each shape with each box at any row or column of its grid.

    The overlap is symmetric about the position that centres the anchor on the box, so one of the two grid positions
    around it is the best.
    """
    low, high, _, step, offset, cells = shape
    centre = ((box[0] + box[1]) - (low + high)) / 2
    below = ((centre - offset) / step).floor()
    around = torch.minimum(torch.stack((below, below + 1)).clamp_(min=0), cells - 1)
    return _overlap_at(around, shape, box).amax(dim=0)


def _best_of_levels(iou: Tensor, level: Tensor, levels: int) -> Tensor:
    """(levels, G) the best IoU on each level, from the (G, S) best IoU of each shape."""
    best = iou.new_zeros(levels, len(iou))
    return best.scatter_reduce_(0, level[:, None].expand(-1, len(iou)), iou.t(), "amax")


def _near_interval(shape: Tensor, box: Tensor, across: Tensor, area_sum: Tensor, bound: Tensor) -> Tensor:
    """The positions along one axis where IoU > bound, given the overlap along the other axis.

    That is overlap > need, with need = F/(1+F) * (both areas) / across. The closed form of an end is off by rounding
    only where it falls on a cell to within an ulp. So the nearest cell alone is in doubt, and its IoU, computed as the
    reference computes it, decides: ties at the threshold come out the same.

    Returns:
        (2, ...) first cell, and one past the last. Meaningless where the IoU exceeds the bound nowhere.
    """
    low, high, _, step, offset, cells = shape
    need = bound / (1 + bound) * area_sum / across
    ends = torch.stack((need + box[0] - high, box[1] - low - need)).sub_(offset).div_(step).round_()
    near = _iou(_overlap_at(ends, shape, box) * across, area_sum) > bound
    ends[0] += ~near[0]
    ends[1] += near[1]
    return torch.minimum(ends.clamp_(min=0), cells)


def _may_wait(device: torch.device) -> bool:
    """Whether the host may read a size from this device: an accelerator would first have to finish all queued work."""
    return device.type == "cpu"


def _list_rows(first: Tensor, stop: Tensor, tallest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The near rows of all pairs as one list: the pair (N,), its row (N,), and whether the entry exists.

    Where the device must not be waited for, N cannot depend on the values: every pair then gets as many entries as the
    tallest level has rows.
    """
    pair = torch.arange(len(first), device=first.device)
    if _may_wait(first.device):
        count = stop - first
        pair = pair.repeat_interleave(count)
        row = torch.arange(len(pair), device=first.device) - (count.cumsum(0) - stop).index_select(0, pair)
        return pair, row, torch.ones((), dtype=torch.bool, device=first.device)
    row = first[:, None] + torch.arange(tallest, device=first.device)
    exists = row < stop[:, None]
    return pair.repeat_interleave(tallest), torch.where(exists, row, 0).flatten(), exists.flatten()


@dataclass(frozen=True, eq=False)
class _Layout:
    """The grids of all levels, for their anchor shapes as one axis of length S.

    A *shape* is a tensor (6, ...) of low edge, high edge and length of the cell anchor, and step, offset and number of
    cells of its grid, along one axis or both: `_edges` and then `geometry`.

    The difference array of an image has H x (W + 1) places for each level.
    """

    level: Tensor  # (S,)
    geometry: Tensor  # (3, 2, S) step, offset, cells; along x, y
    start: Tensor  # (S,) place of the first row of the level
    pitch: Tensor  # (S,) places from row to row
    places: int  # of one image

    def cell(self, image: Tensor, shape: Tensor, row: Tensor) -> Tensor:
        """The place of the first cell of a row."""
        return image * self.places + self.start.index_select(0, shape) + row * self.pitch.index_select(0, shape)


def _key(grid: AnchorGrid) -> _LevelKey:
    return grid.size, grid.step, grid.offset, grid.num_shapes


@lru_cache(maxsize=64)
def _layout(levels: tuple[_LevelKey, ...], device: torch.device, dtype: torch.dtype) -> _Layout:
    """Kept, because a training sees the same few image sizes again and again. Anchors are no part of it."""
    *starts, places = _starts([size for size, *_ in levels])
    geometry = torch.tensor([(step[::-1], offset[::-1], size[::-1]) for size, step, offset, _ in levels], dtype=dtype)
    level = torch.arange(len(levels)).repeat_interleave(torch.tensor([shapes for *_, shapes in levels]))
    start, pitch = torch.tensor([starts, [width + 1 for (_, width), *_ in levels]])[:, level]
    parts = (level, geometry[level].permute(1, 2, 0).contiguous(), start, pitch)
    return _Layout(*(part.to(device) for part in parts), places)


def _starts(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Where each level (H, W) starts in an image's difference array; then the total."""
    return [0, *accumulate(height * (width + 1) for height, width in sizes)]


def _fill(grids: Sequence[AnchorGrid], ends: Tensor, images: int) -> list[Tensor]:
    """(images, H, W) masks of each level from the (2, N) places where an interval of near cells starts and stops.

    +1 at each start, -1 at each stop, then one cumulative sum: it is back at 0 at the end of every row.
    """
    *starts, places = _starts([grid.size for grid in grids])
    steps = torch.zeros(images * places, dtype=torch.int32, device=ends.device)
    one = steps.new_ones(()).expand(ends.shape[1])
    steps.index_add_(0, ends[0], one).index_add_(0, ends[1], one, alpha=-1)
    counts = steps.cumsum(0, dtype=torch.int32).view(images, places)
    masks = []
    for grid, start in zip(grids, starts, strict=True):
        height, width = grid.size
        level = counts[:, start : start + height * (width + 1)].view(images, height, width + 1)
        masks.append(level[..., :width] > 0)
    return masks


def _iou_table(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """(G, H, W, K) IoU of every anchor of the grid with every box."""
    cell_anchors = grid.cell_anchors.to(boxes)
    rows, columns = (grid.origins(axis, device=boxes.device, dtype=boxes.dtype) for axis in (0, 1))
    low, high, length = _edges(cell_anchors)
    box = _edges(boxes)[..., None, None, None]
    x, y = columns[None, :, None], rows[:, None, None]
    width = _overlap(low[0] + x, high[0] + x, length[0], box[:, 0])
    height = _overlap(low[1] + y, high[1] + y, length[1], box[:, 1])
    return _iou(width * height, _area(boxes)[:, None, None, None] + _area(cell_anchors))
