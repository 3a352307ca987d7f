"""Pixels: uint8 from the file to the device, where they become floats. Bytes are a quarter of the data to move.

Images of a batch are padded on the right and at the bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FILL = (124, 116, 104)
"""RGB of the padding, in [0, 255]: the rounded ImageNet mean, which the usual normalisation maps to about 0."""


def as_float(images: Tensor) -> Tensor:
    """Images for a network: uint8 (..., 3, height, width) becomes float32 in [0, 1], floats pass unchanged."""
    from torchvision.transforms.v2 import functional as F  # takes a second to import, and only batches need it

    return images if images.is_floating_point() else F.to_dtype(images, torch.float32, scale=True)


def filled(count: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """Padding: (count, 3, height, width) images of the colour `FILL`, with the dtype and device of ``like``."""
    colour = torch.tensor(FILL, dtype=torch.uint8, device=like.device)
    if like.is_floating_point():
        colour = as_float(colour).to(like)
    return colour.reshape(1, 3, 1, 1).repeat(count, 1, height, width)


def pad_right_and_bottom(images: Tensor, height: int, width: int) -> Tensor:
    """Images (batch, 3, H, W), padded with `filled` to (batch, 3, height, width), at least H and W."""
    if images.shape[-2:] == (height, width):
        return images
    padded = filled(len(images), height, width, like=images)
    padded[:, :, : images.shape[-2], : images.shape[-1]] = images
    return padded


def padded_batch(images: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """Images (3, height, width) as one batch, padded with `filled` to the largest; sides are multiples of a number."""
    height, width = (math.ceil(max(image.shape[axis] for image in images) / multiple) * multiple for axis in (1, 2))
    if all(image.shape[1:] == (height, width) for image in images):
        return torch.stack(list(images))
    batch = filled(len(images), height, width, like=images[0])
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch


def image_cells(size: tuple[int, int], stride: int, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """The cells of a map that have a pixel of their image, the rest being padding: (B, H, W) bool, on the CPU.

    Images are padded to the largest of a batch, and by some detectors to a multiple of their coarsest stride.

    Args:
        size: (H, W) of the map.
        stride: pixels per cell.
        sizes: of each image, (height, width) before padding.
    """
    limits = torch.tensor(sizes).view(-1, 2)
    rows, columns = (torch.arange(cells) * stride < limits[:, axis, None] for axis, cells in enumerate(size))
    return rows[:, :, None] & columns[:, None, :]
