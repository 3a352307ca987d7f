"""Squared differences of maps under float weights, over a declared divisor.

The published losses differ less in what they sum than in what they divide by, and with it in the meaning of their
weights. FGFI and its kin have bool masks and one divisor, and compute only at the cells of the mask, see
`eyas.methods.imitation`; methods that weight every cell name their divisor here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from eyas.methods.method import count_per_process

Divisor = Literal["cells", "level_cells", "weights", "level_weights", "images"]
"""What a weighted sum is divided by: the cells of a weight above 0, on all levels together or on each; the sum of the
weights, likewise; or the number of images. Always of the whole batch of all processes."""


def weighted_squares(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """The squared differences of two maps times the weights, summed over everything; a float32 scalar.

    Args:
        student: (batch, C, H, W).
        teacher: the same.
        weights: (batch, H, W), at least 0, or (batch, C, H, W).
    """
    squared = (student.float() - teacher.float()).square()
    return ((squared.sum(dim=1) if weights.dim() == 3 else squared) * weights).sum()


def divisors(rule: Divisor, weights: Sequence[Tensor]) -> list[Tensor]:
    """What the sum of each level is divided by, float32 scalars, 0 where nothing has a weight.

    R processes each get the R-th part of the whole batch's, see `eyas.methods.method.count_per_process`.

    Args:
        rule: see `Divisor`.
        weights: (batch, H, W) of each level.
    """
    if rule == "images":
        counts = torch.stack([own.new_tensor(float(len(own))) for own in weights])
    elif rule in ("cells", "level_cells"):
        counts = torch.stack([(own > 0).float().sum() for own in weights])
    else:
        counts = torch.stack([own.float().sum() for own in weights])
    if rule in ("cells", "weights"):
        counts = counts.sum().expand(len(weights))
    return list(count_per_process(counts).unbind())
