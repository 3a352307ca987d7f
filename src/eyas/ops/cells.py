"""Rows of a dense head and the cells of feature maps: which row is which anchor of which cell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """n anchors, each by its image in the batch, level, row and column of the cell, and index there; (n,) int64."""

    image: Tensor
    level: Tensor
    y: Tensor
    x: Tensor
    anchor: Tensor


@dataclass(frozen=True)
class CellLayout:
    """The rows of a head that answers for every anchor of every cell.

    They are ordered by image, then by level, row and column of the cell, and anchor of the cell.

    Attributes:
        sizes: (H, W) of each level's map, in the order of the detector's levels.
        anchors: A of each level, the anchors of one cell.

    Raises:
        ValueError: there are not as many sizes as numbers of anchors.
    """

    sizes: tuple[tuple[int, int], ...]
    anchors: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.anchors):
            raise ValueError(f"{len(self.sizes)} levels have sizes and {len(self.anchors)} have anchors")

    @property
    def counts(self) -> list[int]:
        """The rows of one image on each level."""
        return [height * width * anchors for (height, width), anchors in zip(self.sizes, self.anchors, strict=True)]

    def cells(self, rows: Tensor) -> Cells:
        """The cells of rows (n,) int64."""
        starts, widths, anchors = self._levels(rows.device)
        image, place = rows // starts[-1], rows % starts[-1]
        level = torch.searchsorted(starts, place, right=True) - 1
        cell, anchor = (place - starts[level]) // anchors[level], (place - starts[level]) % anchors[level]
        return Cells(image, level, cell // widths[level], cell % widths[level], anchor)

    def rows(self, cells: Cells) -> Tensor:
        """The rows of cells, (n,) int64: the inverse of `cells`."""
        starts, widths, anchors = self._levels(cells.level.device)
        cell = cells.y * widths[cells.level] + cells.x
        return cells.image * starts[-1] + starts[cells.level] + cell * anchors[cells.level] + cells.anchor

    def maps(self, values: Tensor) -> list[Tensor]:
        """Values of all rows, (N, ...), as one map for each level, (batch, H, W, A, ...). No value is copied."""
        by_image = values.unflatten(0, (-1, sum(self.counts)))
        parts = zip(by_image.split(self.counts, dim=1), self.sizes, self.anchors, strict=True)
        return [part.unflatten(1, (*size, anchors)) for part, size, anchors in parts]

    def highest(self, values: Tensor) -> list[Tensor]:
        """The highest of the values (N, C) of each cell, over its anchors and the columns, (batch, H, W) per level."""
        return [level.amax(dim=-1) for level in self.maps(values.amax(dim=1))]

    def _levels(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """For each level its first row within an image, and at the end the rows of an image; W; and A."""
        starts, widths = [0, *accumulate(self.counts)], [width for _, width in self.sizes]
        first, second, third = (torch.tensor(values, device=device) for values in (starts, widths, self.anchors))
        return first, second, third
