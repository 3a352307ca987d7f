"""Arithmetic on boxes as tensors: (..., 4) xyxy, pixels, any floating type, on any device.

`area`, `clip` and `to_centre_size` equal their namesakes in torchvision.ops, which is not imported here because that
takes as long as importing torch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """(..., 4) to (...), square pixels; 0 for a box with swapped corners, where torchvision's may be negative."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp_(min=0).unbind(-1)
    return width * height


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that boxes share, broadcast: (..., 4) and (..., 4) to (...), square pixels."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp_(min=0) * height.clamp_(min=0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union in [0, 1], broadcast as `intersection`; 0 where both boxes are empty."""
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared).clamp_(min=1e-9)


def diou(a: Tensor, b: Tensor) -> Tensor:
    """Distance IoU in (-1, 1], broadcast as `intersection` (Zheng et al., AAAI 2020, equation 7).

    The IoU less the squared distance of the centres over the squared diagonal of the smallest box around both.
    """
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return iou(a, b) - apart.square().sum(dim=-1) / around.square().sum(dim=-1).clamp_(min=1e-9)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) moved into an image of (height, width). Sizes may be symbols of a trace."""
    x, y = boxes[..., 0::2].clamp(0, size[1]), boxes[..., 1::2].clamp(0, size[0])
    return torch.stack((x, y), dim=-1).flatten(-2)


def scale(boxes: Tensor, x: float, y: float) -> Tensor:
    """Boxes (..., 4) in an image that is resized by a factor along each axis."""
    return boxes * boxes.new_tensor((x, y, x, y))


def to_centre_size(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy to (..., 4) centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)
