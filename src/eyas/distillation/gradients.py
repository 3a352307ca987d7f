"""The norm of a loss's gradient at feature maps, in any precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.nn.processes import mean_over_processes

HALF_SCALES = (2.0**24, 2.0**16, 2.0**8, 1.0, 2.0**-8)
"""Factors of a loss whose gradient is computed in float16, largest first. float16 spans 40 powers of two; the largest
factor without an overflow leaves at least the upper 24 of them to the gradient."""


def gradient_norm(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    """The norm of a loss's gradient at feature maps, over all of them: the root of the mean square over the processes.

    In float16 small gradients underflow to 0, as in training without a `torch.amp.GradScaler`. There the loss is
    multiplied by the largest of `HALF_SCALES` at which the gradient is finite, and the norm divided by it: both are
    powers of two, so nothing is rounded. Finding it reads the norm on the host, as a GradScaler does in every step; the
    norm is that of all processes, so they all take the same factor. In other precisions the host reads nothing.

    The graph is kept. A scalar; 0 where the loss does not depend on the features, not finite where its gradient is not.
    """
    wanted = [feature for feature in features if feature.requires_grad]
    if not _in_half(loss, wanted):
        return _norm(loss, wanted)
    for scale in HALF_SCALES:
        norm = _norm(loss.float() * scale, wanted) / scale
        if bool(torch.isfinite(norm)):
            break
    return norm


def _norm(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    square = loss.new_zeros((), dtype=torch.float32)
    if features and loss.requires_grad:
        found = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        square = sum((gradient.float().square().sum() for gradient in found if gradient is not None), start=square)
    return mean_over_processes(square).sqrt()


def _in_half(loss: Tensor, features: Sequence[Tensor]) -> bool:
    """Whether gradients are computed in float16: under its autocast, or of features in float16."""
    if any(feature.dtype is torch.float16 for feature in features):
        return True
    device = loss.device.type
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return enabled and torch.get_autocast_dtype(device) is torch.float16
