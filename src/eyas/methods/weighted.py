"""What the published losses on maps are sums of, and what they divide by.

The losses differ less in what they sum than in what they divide by, and with it in the meaning of their weights. FGFI
and its kin have bool masks and one divisor, and compute only at the cells of the mask, see `eyas.methods.imitation`;
methods that look at every cell find their sums and divisors here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eyas.nn.processes import count_per_process
from eyas.ops.losses import ratio


def squared_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of two maps at each cell, summed over channels.

    Args:
        student: (batch, C, H, W).
        teacher: the same.

    Returns:
        (batch, H, W) float32.
    """
    return (student.float() - teacher.float()).square().sum(dim=1)


def whole_count(count: int, device: torch.device) -> Tensor:
    """A count of this process, such as its images, added up over all R processes and divided by R: a float32 scalar.

    See `eyas.nn.processes.count_per_process`. The host does not wait for the device.
    """
    return count_per_process(torch.full((), float(count), device=device))


def weighted_means(values: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each level's values under its weights, over all processes; float32 scalars, 0 where all weights are.

    Args:
        values: (batch, H, W) of each level.
        weights: the same, at least 0.
    """
    totals = count_per_process(torch.stack([own.sum() for own in weights]))
    return [ratio((own * weight).sum(), total) for own, weight, total in zip(values, weights, totals, strict=True)]


def image_share(maps: Tensor) -> Tensor:
    """Scales a mean over this process's images so that the mean over processes is that over all images; float32 scalar.

    It is 1 for one process, and where all have as many images. Maps are (batch, ...).
    """
    return len(maps) / whole_count(len(maps), maps.device)
