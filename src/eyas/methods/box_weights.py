"""Weights of a map's cells from the boxes of its images, on the host, so that nothing waits for a device.

Cell (i, j) of a level lies at the pixels from ``j * stride`` and ``i * stride``. The authors of FGD scale boxes by the
size of the map over that of the image without its padding, which stretches the boxes of padded images; here a pixel is
where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyas.tools.timing import span
from eyas.types import Target, host_boxes

CELLS_OF_A_BOX = 14
"""A box goes to the level on which it is this many cells wide, or up to twice as many. FPN has 224 pixels at stride 16,
and the authors of DeFeat 56 at stride 4."""


def boxes_on_host(targets: Sequence[Target]) -> list[npt.NDArray[np.float32]]:
    """(n, 4) xyxy of each image. Without `host_boxes` of the loader, the host waits for the device here."""
    return [boxes.detach().cpu().float().numpy() for boxes in host_boxes(targets)]


@span("mask")
def inverse_areas(targets: Sequence[Target], size: Sequence[int], stride: int) -> Tensor:
    """FGD's foreground: each cell has 1 over the cells of the smallest box that it is in, or 0 (equation 2).

    A box has the cells from the one that its left upper corner is in to the one at ``ceil`` of its right lower corner,
    both inclusive; those beyond the map count in its area.

    Returns:
        (batch, H, W) float32, on the CPU.
    """
    weights = np.zeros((len(targets), *size), dtype=np.float32)
    for image, boxes in zip(weights, boxes_on_host(targets), strict=True):
        first = np.floor(boxes[:, :2] / stride).astype(np.int64)
        last = np.ceil(boxes[:, 2:] / stride).astype(np.int64)
        areas = (last - first + 1).prod(axis=1)
        for index in np.argsort(-areas, kind="stable"):  # small boxes over large ones
            (left, top), (right, bottom) = first[index].clip(0), last[index].clip(-1)
            image[top : bottom + 1, left : right + 1] = 1 / areas[index]
    return torch.from_numpy(weights)


def strides_by_size(boxes: npt.NDArray[np.float32], strides: Sequence[int]) -> npt.NDArray[np.int64]:
    """The stride of each box's level, by the root of its area: ``floor(log2(sqrt((w + 1) (h + 1)) / 14 s))`` levels
    after that of the finest stride s, or the coarsest."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    above = np.floor(np.log2(np.sqrt(sides.prod(axis=1)) / (CELLS_OF_A_BOX * min(strides))))
    wanted, known = min(strides) * 2.0 ** above.clip(0), np.asarray(strides)
    nearest: npt.NDArray[np.int64] = known[np.abs(np.log2(wanted[:, None] / known)).argmin(axis=1)]
    return nearest


@span("mask")
def foreground_masks(targets: Sequence[Target], sizes: Sequence[Sequence[int]], strides: Sequence[int]) -> list[Tensor]:
    """DeFeat's foreground on each level: 1 at the cells of the boxes that go to its stride by size, else 0.

    A box has the cells from the one that its left upper corner is in to the one of its right lower corner, exclusive,
    and at least one in either direction.

    Returns:
        For each level (batch, H, W) float32, on the CPU.
    """
    masks = [np.zeros((len(targets), *size), dtype=np.float32) for size in sizes]
    for image, boxes in enumerate(boxes_on_host(targets)):
        for box, stride in zip(boxes, strides_by_size(boxes, strides), strict=True):
            left, top, right, bottom = (box.clip(0) / stride).astype(np.int64)
            for mask in (own for own, its in zip(masks, strides, strict=True) if its == stride):
                mask[image, top : max(bottom, top + 1), left : max(right, left + 1)] = 1
    return [torch.from_numpy(mask) for mask in masks]
