"""Losses of single rows and boxes, with gradients: what methods weight and sum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.ops.boxes import area, intersection

EMPTY = 1e-9
"""Square pixels; areas up to this count as none."""


def soft_bce(student_logits: Tensor, teacher_logits: Tensor, beta: float = 1.0) -> Tensor:
    """``BCE(z_s, sigmoid(z_t)) |sigmoid(z_t) - sigmoid(z_s)|^beta`` of each entry: the focal loss of a soft target.

    Li et al., "Generalized Focal Loss" (NeurIPS 2020), quality focal loss. The factor has a gradient, too. For beta
    above 0 the loss is 0, and has no gradient, if and only if the logits are equal; for beta = 0 it is the
    cross-entropy.

    Args:
        student_logits: z_s, (...).
        teacher_logits: z_t, of the same shape; it gets no gradient.
        beta: 0, or at least 1: below, the gradient at equal logits is infinite.

    Returns:
        Float32, of the same shape, at least 0.
    """
    student, teacher = student_logits.float(), teacher_logits.detach().float()
    target = teacher.sigmoid()
    loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return loss * (target - student.sigmoid()).abs() ** beta


def iou_loss(a: Tensor, b: Tensor) -> Tensor:
    """``1 - IoU`` of boxes (..., 4) xyxy, broadcast: (...) in [0, 1]; 0 where both are empty."""
    shared = intersection(a, b)
    return 1 - _quotient(shared, area(a) + area(b) - shared, 1.0)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """``1 - GIoU`` of boxes (..., 4) xyxy, broadcast: (...) in [0, 2]; 0 where one empty box is around both.

    Rezatofighi et al. (CVPR 2019), algorithm 1. Unlike `iou_loss` it has a gradient where the boxes are apart.
    """
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    around = area(torch.cat((low, high), dim=-1))
    return _quotient(around - union, around, -1.0) + 1 - _quotient(shared, union, 0.0)


def _quotient(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """``part / whole``; where the whole is empty a constant, without a gradient."""
    return torch.where(whole > EMPTY, part / whole.clamp(min=EMPTY), otherwise)


def ratio(total: Tensor, count: Tensor | float) -> Tensor:
    """``total / count``, and 0 if both are 0: nothing was counted, so any positive divisor will do."""
    count = torch.as_tensor(count, device=total.device).float()
    return total / count.clamp(min=torch.finfo(torch.float32).eps)
