"""Pixels: 8 bits a channel from the file to the device, a quarter of what floats would take on the way, then floats."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

FILL = (124, 116, 104)
"""The colour of padding: the ImageNet mean, which the detectors' usual normalisation maps to zero, in whole steps."""


def as_float(images: Tensor) -> Tensor:
    """Images (..., 3, height, width), uint8, as the networks take them: float32 in [0, 1]. Floats stay as they are."""
    return images if images.is_floating_point() else F.to_dtype(images, torch.float32, scale=True)


def filled(count: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """Images (count, 3, height, width) of the padding's colour, of the type and on the device of others."""
    colour = torch.tensor(FILL, dtype=torch.uint8, device=like.device)
    if like.is_floating_point():
        colour = as_float(colour).to(like)
    return colour.reshape(1, 3, 1, 1).repeat(count, 1, height, width)
