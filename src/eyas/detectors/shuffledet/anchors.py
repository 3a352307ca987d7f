"""ShuffleDet's anchors. An image has those of its own size, whatever size its batch is padded to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from eyas.ops.anchors import AnchorGrid
from eyas.ops.boxes import iou
from eyas.ops.pixels import image_cells
from eyas.types import Size

STRIDE = 16
"""Input pixels per cell."""


def anchor_step(image_size: Size) -> tuple[float, float]:
    """(y, x), pixels between neighbouring anchors of one shape, and from the corner of the image to the first.

    The authors divide the n cells of a side into n + 1 steps, so a step is not `STRIDE` pixels: the anchors of the
    first cells are up to half a step right of their cells' centres, those of the last ones as much left.
    """
    height, width = (side / (-(-side // STRIDE) + 1) for side in image_size)
    return height, width


@dataclass(frozen=True, eq=False)
class BatchAnchors:
    """The A anchors of each image of a batch, in row, column, shape order of the batch's map.

    Attributes:
        boxes: (B, A, 4) xyxy, pixels. Here and below B is 1 where all images have one size.
        outside: (B, A) bool, the anchors of cells that are padding alone; None where there are none.
        limits: (B, 4) float32: width, height, width, height of the images.
    """

    boxes: Tensor
    outside: Tensor | None
    limits: Tensor

    @classmethod
    def of(cls, cell_anchors: Tensor, size: Size, image_sizes: Sequence[Size], device: torch.device) -> Self:
        """The anchors of images of (height, width) on a map of ``size`` cells; cell anchors are (K, 4)."""
        sizes = image_sizes if len(set(image_sizes)) > 1 else image_sizes[:1]
        steps = [anchor_step(image_size) for image_size in sizes]
        boxes = torch.stack([AnchorGrid(cell_anchors, size, step, step).anchors().reshape(-1, 4) for step in steps])
        limits = torch.tensor([(width, height, width, height) for height, width in sizes], dtype=torch.float32)
        outside = ~image_cells(size, STRIDE, sizes).flatten(1)
        outside = outside.repeat_interleave(len(cell_anchors), dim=1)
        return cls(boxes.to(device), outside.to(device) if outside.any() else None, limits.to(device))

    def __len__(self) -> int:
        """A."""
        return self.boxes.shape[1]

    def images(self, count: int) -> Tensor:
        """(count, A, 4): the anchors of each of the batch's images."""
        return self.boxes.expand(count, -1, -1)

    def overlaps(self, boxes: Tensor, image: Tensor) -> Tensor:
        """(n, A): the IoU of boxes (n, 4) with each anchor of their images, whose indices are (n,); -1 in padding."""
        found = iou(boxes[:, None], self.boxes if len(self.boxes) == 1 else self.boxes[image])
        return found if self.outside is None else found.masked_fill_(self.outside[_row(self.outside, image)], -1)

    def matched(self, image: Tensor, anchor: Tensor) -> Tensor:
        """(n, 4): the anchors of these indices, (n,) each, in these images of the batch."""
        return self.boxes[_row(self.boxes, image), anchor]

    def clip(self, boxes: Tensor, image: Tensor) -> Tensor:
        """Boxes (n, 4) moved into their images, whose indices are (n,)."""
        return torch.minimum(boxes.clamp(min=0), self.limits[_row(self.limits, image)])


def _row(values: Tensor, image: Tensor) -> Tensor:
    return image if len(values) > 1 else torch.zeros_like(image)
