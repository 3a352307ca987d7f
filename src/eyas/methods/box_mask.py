"""Feature imitation inside ground-truth boxes, a baseline of Wang et al. (CVPR 2019, tables 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.methods.imitation import FeatureImitation, Rectify
from eyas.methods.masks import batch_masks
from eyas.methods.method import Weight
from eyas.methods.schedule import ALWAYS, Schedule
from eyas.ops.anchors import AnchorGrid
from eyas.types import Target, View


def box_masks(grid: AnchorGrid, boxes: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """The cells that a box overlaps. A cell is one step wide and high, around the mean centre of its anchors.

    Args:
        grid: the anchors of one level, H x W cells. Only their centres matter, not their sizes.
        boxes: for each of the B images, (n, 4) boxes, xyxy in pixels; n may be 0.
        scale: factor on the width and height of every box, about its centre; above 0.

    Returns:
        (B, H, W) bool. A box whose centre lies on the map has at least one cell, even if it is smaller than a cell.
    """
    # float64 where the device has it.
    return torch.stack([_box_mask(grid, own.float() if own.is_mps else own.double(), scale) for own in boxes])


def _box_mask(grid: AnchorGrid, boxes: Tensor, scale: float) -> Tensor:
    anchors, sides = grid.cell_anchors.double(), []
    for axis, (low, high) in enumerate(((boxes[:, 1], boxes[:, 3]), (boxes[:, 0], boxes[:, 2]))):
        middle, half = (low + high) / 2, (high - low) * scale / 2
        # The mean centre of each cell's anchors along the axis, (H,) or (W,).
        centres = grid.origins(axis, dtype=torch.float64) + (anchors[:, 1 - axis] + anchors[:, 3 - axis]).mean() / 2
        distance = (centres.to(boxes) - middle[:, None]).abs()
        sides.append(distance < half[:, None] + grid.step[axis] / 2)
    rows, columns = sides
    # A box is the product of its rows and its columns; the mask is the union over boxes.
    return (rows.t().float() @ columns.float()) > 0


class BoxMask(FeatureImitation):
    """Feature imitation on the cells inside ground-truth boxes (Wang et al., CVPR 2019, tables 3 and 4).

    The loss is that of `FGFI` with another mask: squared differences, summed over channels and averaged over the cells
    of all levels and images of the batch, halved.

    Args:
        weight: factor of the loss, or auto.
        scale: factor on the width and height of every box, about its centre.
        kernel_size: kernel of the adaptation layer, odd.
        rectify: end the adaptation layer in a ReLU: always, never, or auto, which adds it if the teacher's features are
            never negative.
        init_std: standard deviation of the adaptation layer's initial weights.
        schedule: when the loss counts, see `Schedule`.
        sparse_below: evaluate the adaptation layer only at the imitated cells if their share is below this, see `FGFI`.
        name: key of the loss.

    Raises:
        EyasError: an option is out of range.
    """

    needs = ("feature maps", "boxes")

    def __init__(
        self,
        weight: Weight = "auto",
        *,
        scale: float = 1.0,
        kernel_size: int = 3,
        rectify: Rectify = "auto",
        init_std: float = 1e-4,
        schedule: Schedule = ALWAYS,
        sparse_below: float | None = None,
        name: str = "box_mask",
    ) -> None:
        super().__init__(name, weight, schedule, kernel_size, rectify, init_std, sparse_below)
        self.require(scale > 0, f"scale must be above 0, got {scale}")
        self.scale = scale

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        """The cells inside boxes on each level, (batch, H, W) bool, on the teacher's grids."""
        return batch_masks(
            teacher, targets, lambda grids, boxes: [box_masks(grid, boxes, self.scale) for grid in grids]
        )

    def fingerprint(self) -> dict[str, object]:
        return {"scale": self.scale}

    def describe(self, teacher: View, targets: Sequence[Target]) -> str:
        what = "in boxes" if self.scale == 1 else f"in boxes scaled by {self.scale:g}"
        return self._describe(teacher, targets, what)
