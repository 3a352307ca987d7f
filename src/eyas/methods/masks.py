"""Masks of a batch whose images may have anchors of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from eyas.ops.anchors import AnchorGrid
from eyas.types import Target, View, host_boxes

MaskBuilder = Callable[[Sequence[AnchorGrid], Sequence[Tensor]], list[Tensor]]
"""(grid of each level, boxes (n, 4) of each image) -> a mask of each level, (batch, H, W) bool."""


def batch_masks(view: View, targets: Sequence[Target], build: MaskBuilder) -> list[Tensor]:
    """The masks of each level, (batch, H, W) bool, each image's on its own anchors.

    On the CPU where possible, see `eyas.types.host_boxes`. Where images of a batch have anchors of their own, their
    padding is not in the mask.
    """
    boxes, groups = host_boxes(targets), view.by_anchors(targets)
    if len(groups) == 1 and [grid.size for grid in groups[0][1]] == [grid.size for grid in view.grids]:
        return build(groups[0][1], boxes)
    masks: list[Tensor] = []
    for members, grids in groups:
        found = build(grids, [boxes[index] for index in members])
        masks = masks or [part.new_zeros(len(boxes), *grid.size) for part, grid in zip(found, view.grids, strict=True)]
        for mask, part in zip(masks, found, strict=True):
            mask[members, : part.shape[1], : part.shape[2]] = part
    return masks
