"""Masks of a batch whose images may have anchors of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from eyas.ops.anchors import AnchorGrid
from eyas.ops.near_objects import AssignmentRule, near_object_masks
from eyas.types import Size, Target, View, host_boxes, image_sizes

MaskBuilder = Callable[[Sequence[AnchorGrid], Sequence[Tensor]], list[Tensor]]
"""(grid of each level, boxes (n, 4) of each image) -> a mask of each level, (batch, H, W) bool."""


def near_masks(view: View, targets: Sequence[Target], *, psi: float, assignment: AssignmentRule) -> list[Tensor]:
    """The near-object mask of each level of a view, (batch, H, W) bool, by `near_object_masks`."""
    ranges = [level.box_range for level in view.levels]
    near = partial(near_object_masks, psi=psi, assignment=assignment, box_ranges=ranges)
    return batch_masks(view, targets, near)


def batch_masks(view: View, targets: Sequence[Target], build: MaskBuilder) -> list[Tensor]:
    """The masks of each level, (batch, H, W) bool, each image's on its own anchors.

    On the CPU where possible, see `eyas.types.host_boxes`. Where images of a batch have anchors of their own, their
    padding is not in the mask.
    """
    boxes, groups = host_boxes(targets), _by_anchors(view, targets)
    if len(groups) == 1 and [grid.size for grid in groups[0][1]] == [grid.size for grid in view.grids]:
        return build(groups[0][1], boxes)
    masks: list[Tensor] = []
    for members, grids in groups:
        found = build(grids, [boxes[index] for index in members])
        masks = masks or [part.new_zeros(len(boxes), *grid.size) for part, grid in zip(found, view.grids, strict=True)]
        for mask, part in zip(masks, found, strict=True):
            mask[members, : part.shape[1], : part.shape[2]] = part
    return masks


def _by_anchors(view: View, targets: Sequence[Target]) -> list[tuple[list[int], Sequence[AnchorGrid]]]:
    """The images that have the same anchors, as indices in the batch, with those anchors on each level.

    Usually one group of all images, with the view's own grids. Where a level is ``per_image``, one group for each size
    of images.
    """
    sizes = image_sizes(targets, view.image_size)
    if not any(level.per_image for level in view.levels) or set(sizes) <= {view.image_size}:
        return [(list(range(len(sizes))), view.grids)]
    groups = {size: [index for index, own in enumerate(sizes) if own == size] for size in sizes}
    return [(members, _grids_of(view, size)) for size, members in groups.items()]


def _grids_of(view: View, image_size: Size) -> list[AnchorGrid]:
    """The grids for images of one size; those of ``per_image`` levels cover the cells of the image, not its padding."""
    grids = []
    for level, grid in zip(view.levels, view.grids, strict=True):
        if level.per_image:
            rows, columns = (
                min(cells, -(-side // level.stride)) for cells, side in zip(grid.size, image_size, strict=True)
            )
            grid = level.grid((rows, columns), image_size)
        grids.append(grid)
    return grids
