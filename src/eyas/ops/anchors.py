"""Anchor grids: where the anchors of one feature level lie in the image.

A grid is stored by its generators (cell shapes, step, offset), never as a list of anchors: everything the
near-object mask needs is separable along the two axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AnchorGrid:
    """K anchors repeated on every cell of an H x W feature map.

    Attributes:
        cell_anchors: (K, 4) float boxes, xyxy in pixels, relative to a cell's origin.
        size: (H, W), cells.
        step: (step_y, step_x), pixels between neighbouring cells. Real-valued: ShuffleDet's spacing is not its stride.
        offset: (offset_y, offset_x), pixels, the origin of cell (0, 0).

    The anchor k of cell (i, j) (row, column) is
    ``cell_anchors[k] + (offset_x + j*step_x, offset_y + i*step_y) * (1, 1, 1, 1)`` in x, y, x, y order.
    """

    cell_anchors: Tensor
    size: tuple[int, int]
    step: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.cell_anchors.ndim != 2 or self.cell_anchors.shape[1] != 4 or len(self.cell_anchors) == 0:
            raise ValueError(f"cell_anchors must be (K, 4) with K >= 1, got {tuple(self.cell_anchors.shape)}")
        if min(self.size) < 1:
            raise ValueError(f"an anchor grid needs at least one cell, got size {self.size}")
        if min(self.step) <= 0:
            raise ValueError(f"the step of an anchor grid must be positive, got {self.step}")

    @property
    def num_shapes(self) -> int:
        """K, the number of anchors on one cell."""
        return len(self.cell_anchors)

    def origins(self, axis: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Pixel coordinates of the cell origins along one axis: 0 gives (H,) rows, 1 gives (W,) columns."""
        positions = torch.arange(self.size[axis], device=device, dtype=dtype or self.cell_anchors.dtype)
        return positions * self.step[axis] + self.offset[axis]

    def anchors(self) -> Tensor:
        """Every anchor, (H, W, K, 4), xyxy in pixels. For drawing and for the reference mask only."""
        y, x = (self.origins(axis, device=self.cell_anchors.device) for axis in (0, 1))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        origin = torch.stack((columns, rows, columns, rows), dim=-1)
        return origin[:, :, None, :] + self.cell_anchors


def shapes_to_cell_anchors(shapes: Sequence[tuple[float, float]]) -> Tensor:
    """(width, height) pairs, in pixels, to (K, 4) boxes centred on the cell's origin."""
    sizes = torch.tensor(shapes, dtype=torch.float32)
    return torch.cat((-sizes / 2, sizes / 2), dim=1)


def ratio_cell_anchors(side: float, ratios: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
    """Anchors of one area, ``side**2`` pixels, and several height/width ratios, centred on the cell's origin."""
    return shapes_to_cell_anchors([(side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in ratios])


def default_grid(size: tuple[int, int], image_size: tuple[int, int]) -> AnchorGrid:
    """The grid given to detectors that have no anchors: three ratios, side 4 x stride, centred in each cell.

    Args:
        size: (H, W) of the feature map.
        image_size: (height, width) of the image in pixels; the step is their exact quotient.
    """
    step_y, step_x = image_size[0] / size[0], image_size[1] / size[1]
    cell_anchors = ratio_cell_anchors(4 * math.sqrt(step_y * step_x))
    return AnchorGrid(cell_anchors, size, (step_y, step_x), (step_y / 2, step_x / 2))
