"""Anchor grids: where the anchors of one feature level lie in the image.

A grid stores cell anchors, step and offset, never a list of anchors: the near-object mask is separable along the two
axes and needs no more.
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

    Anchor k of cell (i, j), row and column, is ``cell_anchors[k] + (x, y, x, y)`` with ``x = offset_x + j*step_x`` and
    ``y = offset_y + i*step_y``.

    Attributes:
        cell_anchors: (K, 4) float boxes, xyxy in pixels, relative to a cell's origin.
        size: (H, W) in cells.
        step: (step_y, step_x), pixels between neighbouring cells, above 0. Not rounded: ShuffleDet's spacing differs
            from its stride.
        offset: (offset_y, offset_x), the origin of cell (0, 0) in pixels.

    Raises:
        ValueError: ``cell_anchors`` is not (K, 4) with K >= 1, a size is below 1, or a step is not positive.
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
        """The cell origins along one axis in pixels: (H,) y coordinates for axis 0, (W,) x coordinates for axis 1."""
        positions = torch.arange(self.size[axis], device=device, dtype=dtype or self.cell_anchors.dtype)
        return positions * self.step[axis] + self.offset[axis]

    def anchors(self) -> Tensor:
        """All anchors, (H, W, K, 4) xyxy in pixels. Only for drawing, tests and benchmarks."""
        y, x = (self.origins(axis, device=self.cell_anchors.device) for axis in (0, 1))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        origin = torch.stack((columns, rows, columns, rows), dim=-1)
        return origin[:, :, None, :] + self.cell_anchors


def shapes_to_cell_anchors(shapes: Sequence[tuple[float, float]]) -> Tensor:
    """Cell anchors, (K, 4) float32 xyxy centred on the cell's origin, from K (width, height) pairs in pixels."""
    sizes = torch.tensor(shapes, dtype=torch.float32)
    return torch.cat((-sizes / 2, sizes / 2), dim=1)


def ratio_cell_anchors(side: float, ratios: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
    """Cell anchors, (K, 4), of area ``side**2`` square pixels, one for each of K height/width ratios."""
    return shapes_to_cell_anchors([(side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in ratios])


@dataclass(frozen=True)
class StrideGrid:
    """Builds the anchors of a level without its own: boxes of a few ratios (height over width), centred in the cells.

    A cell is ``stride`` pixels wide and high, whatever the size of the image: a map that covers more than the image, as
    of a network that pads inside, begins at the same corner. The square anchor's side is ``scale`` strides.
    """

    stride: int
    scale: float = 4.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __call__(self, size: tuple[int, int], image_size: tuple[int, int]) -> AnchorGrid:
        """The anchors of a map of (H, W) cells.

        Raises:
            ValueError: a size is below 1.
        """
        shapes, step = ratio_cell_anchors(self.scale * self.stride, self.ratios), float(self.stride)
        return AnchorGrid(shapes, size, (step, step), (step / 2, step / 2))
