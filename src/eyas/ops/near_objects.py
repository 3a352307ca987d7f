"""Near-object masks: which cells of a feature map the student imitates (Wang et al., CVPR 2019, section 3.1).

In the paper's symbols: for a ground-truth box g, ``M_g`` is the best IoU of any anchor with it and ``F_g = psi * M_g``
is its threshold. A cell is *near* g when one of its K anchors has IoU > F_g. The mask I of an image is the union over
its boxes. ``N_p``, the number of near cells in a batch, is counted by `eyas.methods.imitation.count_imitated_cells`.

IoU on an anchor grid is separable, so the G x H x W x K table of all IoUs is never built. The overlap of anchor shape k
at column j with box g is ``w[g, k, j]``, a trapezoid in j, and its overlap at row i is ``h[g, k, i]``. IoU grows with
``w * h``, hence

- the best IoU of (g, k) on the grid is at ``max_j w`` and ``max_i h``, next to the centre of the box;
- the near rows are those where h exceeds a bound that follows from ``max_j w``; in each row, the near columns are those
  where w exceeds a bound that follows from h; and a trapezoid exceeds a bound on ONE interval.

So the mask is a union of at most G*K*H intervals whose ends have a closed form: add +1 and -1 at the ends, then take
one cumulative sum. The cost is O(G*K*H + H*W) instead of O(G*K*H*W). The anchor shapes of all levels form one flat axis
of length S, so five levels take as many calls as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from eyas.ops.anchors import AnchorGrid
from eyas.ops.boxes import area
from eyas.ops.overlaps import GridTable, Overlaps, grid_table, iou_limits, iou_of

AssignmentRule = Literal["global", "per_level", "by_size"]
"""Which anchors the maximum ``M_g`` is taken over when a detector has several feature levels.

- ``global``: all anchors of all levels. An object has near cells only where its anchors fit, mostly on one or two
  levels.
- ``per_level``: the anchors of each level separately. Every object has near cells on every level.
- ``by_size``: the anchors of the one level that the detector assigns the object to. It has near cells only there.
"""


def near_object_masks(
    grids: Sequence[AnchorGrid],
    boxes: Sequence[Tensor],
    *,
    psi: float = 0.5,
    assignment: AssignmentRule = "global",
    box_ranges: Sequence[tuple[float, float] | None] | None = None,
) -> list[Tensor]:
    """The exact near-object mask of every image on every level (Wang et al., CVPR 2019, section 3.1).

    Args:
        grids: the anchors of each of the L levels, from fine to coarse.
        boxes: for each of the B images, (n, 4) ground-truth boxes, xyxy in pixels; n may be 0.
        psi: the threshold F_g as a share of the best IoU M_g, in [0, 1]. 0 selects every cell with an anchor that
            overlaps a box; 1 selects none, because the comparison is strict.
        assignment: which anchors M_g is taken over, see `AssignmentRule`.
        box_ranges: only for ``by_size``: for each level the (low, high) of its boxes, low <= sqrt(area) < high, in
            pixels. An entry of None is derived from the grids, see `size_ranges`.

    Returns:
        L boolean tensors (B, H, W), on the device of the boxes.

    Raises:
        ValueError: psi is outside [0, 1], the assignment is unknown, there is no level, or ``box_ranges`` has not one
            entry per level.
    """
    _check(grids, psi, assignment)
    flat, image = _flatten(boxes)
    table = grid_table(grids, flat)
    anchors = torch.cat([grid.cell_anchors for grid in grids]).to(flat, non_blocking=True)
    axes, area_sum = Overlaps.of(anchors, table, flat), area(flat)[:, None] + area(anchors)

    best_width, best_height = axes.best_overlap()
    iou = iou_of(best_width * best_height, area_sum)
    bound = _bounds(psi, iou, table.level, flat, assignment, grids, box_ranges)
    limits = iou_limits(bound, area_sum)
    rows = torch.where(iou > bound, axes.along(1).near(best_width, limits), 0)

    pair, row, exists = _list_rows(rows.long(), table)
    axes, limits = axes.pick(pair), limits.flatten(1).index_select(1, pair)
    columns = axes.along(0).near(axes.along(1).overlap(row), limits)
    first, width = table.rows_start(image, len(boxes)).flatten(1).index_select(1, pair)
    return _fill(grids, first + row * width + torch.where(exists, columns, 0).long(), len(boxes))


def near_object_masks_reference(
    grids: Sequence[AnchorGrid],
    boxes: Sequence[Tensor],
    *,
    psi: float = 0.5,
    assignment: AssignmentRule = "global",
    box_ranges: Sequence[tuple[float, float] | None] | None = None,
) -> list[Tensor]:
    """The masks of `near_object_masks`, straight from the definition: the IoU of every anchor with every box.

    For tests and benchmarks. Arguments, result and errors are the same; time and memory are O(G*K*H*W).
    """
    _check(grids, psi, assignment)
    flat, image = _flatten(boxes)
    ious = [_iou_table(grid, flat) for grid in grids]
    level = torch.tensor([i for i, grid in enumerate(grids) for _ in range(grid.num_shapes)], device=flat.device)
    best = torch.cat([table.amax(dim=(1, 2)) for table in ious], dim=1)
    bounds = _bounds(psi, best, level, flat, assignment, grids, box_ranges).expand_as(best)
    masks = []
    for grid, table, bound in zip(grids, ious, bounds.split([grid.num_shapes for grid in grids], dim=1), strict=True):
        near = (table > bound[:, None, None, :]).any(dim=3)
        mask = torch.zeros(len(boxes), *grid.size, dtype=torch.int32, device=flat.device)
        masks.append(mask.index_add_(0, image, near.int()) > 0)
    return masks


def size_ranges(
    grids: Sequence[AnchorGrid], declared: Sequence[tuple[float, float] | None] | None = None
) -> list[tuple[float, float]]:
    """Which boxes belong to each level under ``by_size``: low <= sqrt(area) < high, in pixels.

    A declared range (the detector's own rule) is kept. The others are derived, and cover [0, inf) without gaps: the
    border between two neighbouring levels is the geometric mean of their typical anchor sides, so a box belongs to the
    level whose anchors are closest in scale. Levels with the same typical side share a range.

    Raises:
        ValueError: ``declared`` has not one entry per level.
    """
    sides = [round(float(area(grid.cell_anchors).log().mean()) / 2, 6) for grid in grids]  # their logarithms
    distinct = sorted(set(sides))
    borders = [0.0, *(math.exp((fine + coarse) / 2) for fine, coarse in pairwise(distinct)), math.inf]
    ranges = dict(zip(distinct, pairwise(borders), strict=True))
    derived = [ranges[side] for side in sides]
    if declared is None:
        return derived
    if len(declared) != len(grids):
        raise ValueError(f"box_ranges needs one entry per level, {len(grids)} in all, got {len(declared)}")
    return [own if own is not None else fallback for own, fallback in zip(declared, derived, strict=True)]


def _check(grids: Sequence[AnchorGrid], psi: float, assignment: str) -> None:
    if not grids:
        raise ValueError("a near-object mask needs at least one anchor grid")
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must lie in [0, 1], got {psi}")
    if assignment not in get_args(AssignmentRule):
        raise ValueError(f"assignment must be one of {', '.join(get_args(AssignmentRule))}, got {assignment!r}")


def _flatten(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All boxes, (G, 4), and the image index of each, (G,). Coordinates are float64 where the device supports it."""
    device = boxes[0].device if boxes else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([box.reshape(-1, 4) for box in boxes]).to(dtype) if boxes else torch.zeros(0, 4, dtype=dtype)
    image = torch.tensor([i for i, box in enumerate(boxes) for _ in range(len(box))], dtype=torch.int64)
    return flat, image.to(device, non_blocking=True)


def _bounds(
    psi: float,
    best: Tensor,
    level: Tensor,
    boxes: Tensor,
    assignment: AssignmentRule,
    grids: Sequence[AnchorGrid],
    box_ranges: Sequence[tuple[float, float] | None] | None,
) -> Tensor:
    """The thresholds F_g = psi * M_g, (G, S), or (G, 1) where all levels share them.

    ``best`` is the best IoU of each box and shape, (G, S); M_g is its maximum over the shapes that ``assignment``
    names. F_g is infinite on a level that the box does not belong to.
    """
    if assignment == "global":
        return psi * best.amax(dim=1, keepdim=True)
    of_level = best.new_zeros(len(grids), len(boxes))
    of_level.scatter_reduce_(0, level[:, None].expand(-1, len(boxes)), best.t(), "amax").mul_(psi)
    if assignment == "by_size":
        side = area(boxes).sqrt()
        ranges = torch.tensor(size_ranges(grids, box_ranges), dtype=boxes.dtype)
        low, high = ranges.to(boxes.device, non_blocking=True).unbind(1)
        of_level.masked_fill_((side < low[:, None]) | (side >= high[:, None]), math.inf)
    return of_level[level].t()


def _list_rows(rows: Tensor, table: GridTable) -> tuple[Tensor, Tensor, Tensor]:
    """All near rows as one list of N entries, from their first and one past their last row, (2, G, S).

    The result is three (N,) tensors: each entry's box and shape as a flat index into (G, S); its row; and whether the
    row is near, a scalar True if all are.
    """
    _, boxes, shapes = rows.shape
    first, stop = rows.flatten(1)
    pair = torch.arange(len(first), device=rows.device)
    if _may_synchronise(rows.device):
        count = stop - first
        pair = pair.repeat_interleave(count)
        row = torch.arange(len(pair), device=rows.device) + (stop - count.cumsum(0)).index_select(0, pair)
        return pair, row, torch.ones((), dtype=torch.bool, device=rows.device)
    pair = pair.view(boxes, shapes).index_select(1, table.row_shape).flatten()
    row = table.row.repeat(boxes)
    return pair, row, (row >= first.index_select(0, pair)) & (row < stop.index_select(0, pair))


def _may_synchronise(device: torch.device) -> bool:
    """Whether N may depend on the values. On an accelerator, reading it stalls the host until the queue is empty."""
    return device.type == "cpu"


def _fill(grids: Sequence[AnchorGrid], ends: Tensor, images: int) -> list[Tensor]:
    """The masks of each level, (images, H, W), from the first and one past the last cell of each near interval, (2, N).

    Cells are numbered as in `GridTable.rows_start`.
    """
    counts = [images * grid.size[0] * grid.size[1] for grid in grids]
    steps = torch.zeros(sum(counts) + 1, dtype=torch.int32, device=ends.device)
    one = steps.new_ones(()).expand(ends.shape[1])
    steps.index_add_(0, ends[0], one).index_add_(0, ends[1], one, alpha=-1)
    near = steps[:-1].cumsum(0, dtype=torch.int32) > 0
    return [level.view(images, *grid.size) for level, grid in zip(near.split(counts), grids, strict=True)]


def _iou_table(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """(G, H, W, K) IoU of every anchor of the grid with every box."""
    table = grid_table([grid], boxes)
    anchors = grid.cell_anchors.to(boxes)
    axes = Overlaps.of(anchors, table, boxes)
    rows, columns = (torch.arange(cells, device=boxes.device, dtype=boxes.dtype)[:, None, None] for cells in grid.size)
    width, height = axes.along(0).overlap(columns), axes.along(1).overlap(rows)  # (W or H, G, K)
    intersection = width.transpose(0, 1)[:, None] * height.transpose(0, 1)[:, :, None]
    return iou_of(intersection, area(boxes)[:, None, None, None] + area(anchors))
