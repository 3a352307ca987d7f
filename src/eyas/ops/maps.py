"""Statistics and distributions of feature maps (batch, C, H, W), in float32 whatever their precision."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

EPS = 1e-6
CELLS = (0, 2, 3)
"""The dimensions of a channel's values: images and cells."""


def standardise(maps: Tensor) -> Tensor:
    """Each channel minus its mean, over its standard deviation, both over the batch and the cells.

    The deviation is the unbiased one, and `EPS` is added to it and not to the variance, as in Cao et al., "PKD",
    NeurIPS 2022. Gradients pass through both statistics. A channel that is constant becomes 0, see `inverse_deviation`.

    Args:
        maps: (batch, C, H, W). A single value in each channel has no deviation: it becomes 0.

    Returns:
        (batch, C, H, W) float32.
    """
    mean, deviation = moments(maps)
    return (maps.float() - mean) * inverse_deviation(deviation, mean)


def inverse_deviation(deviation: Tensor, mean: Tensor) -> Tensor:
    """1 / (deviation + `EPS`) of channels with these means, and 0 where a channel is constant but for rounding.

    Such a channel has no pattern to learn. With the quotient its gradient would be a million times that of the others,
    and an automatic weight, which is measured at the maps, would follow it: dead channels behind a ReLU are common.
    """
    varies = deviation > EPS * mean.abs().clamp(min=1)
    return torch.where(varies, 1 / (deviation + EPS), 0.0)


def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the unbiased standard deviation of each channel, (1, C, 1, 1) float32; one value deviates by 0."""
    maps = maps.float()
    mean = maps.mean(dim=CELLS, keepdim=True)
    return mean, deviation((maps - mean).square().sum(dim=CELLS, keepdim=True), maps.numel() // maps.shape[1])


def deviation(squares: Tensor, count: int) -> Tensor:
    """The unbiased standard deviation of ``count`` values from the sum of their squared distances to the mean.

    Its gradient is 0 where the squares are, where that of a square root would be infinite.
    """
    variance = squares / max(count - 1, 1)
    positive = variance > 0
    return variance.where(positive, 1.0).sqrt().where(positive, 0.0)


def spatial_log_softmax(maps: Tensor, temperature: float = 1.0) -> Tensor:
    """The logarithm of each channel's softmax over the cells at a temperature, (batch, C, H * W) float32."""
    return (maps.flatten(2).float() / temperature).log_softmax(dim=2)


def spatial_attention(maps: Tensor, temperature: float = 1.0) -> Tensor:
    """H W softmax over the cells of the mean of |map| over channels, (batch, H, W) float32; it sums to H W.

    Yang et al., "FGD", CVPR 2022, equation 3. A constant map has 1 everywhere.
    """
    strength = maps.float().abs().mean(dim=1)
    return (strength.flatten(1) / temperature).softmax(dim=1).view_as(strength) * strength[0].numel()


def channel_attention(maps: Tensor, temperature: float = 1.0) -> Tensor:
    """C softmax over the channels of the mean of |map| over cells, (batch, C) float32; it sums to C.

    Yang et al., "FGD", CVPR 2022, equation 4. Equal channels have 1 each.
    """
    return (maps.float().abs().mean(dim=(2, 3)) / temperature).softmax(dim=1) * maps.shape[1]


def unit_vectors(maps: Tensor) -> Tensor:
    """Each cell's vector over its length, (batch, C, ...) float32. A vector of zeros stays one, with a finite gradient.

    Args:
        maps: (batch, C, ...).
    """
    maps = maps.float()
    squared = maps.square().sum(dim=1, keepdim=True)
    return maps / squared.where(squared > 0, 1.0).sqrt()


def inner_products(vectors: Tensor) -> Tensor:
    """The inner products of n vectors, (batch, C, n), with each other: (batch, n, n) float32, under autocast too."""
    vectors, kind = vectors.float(), vectors.device.type
    lowered = torch.amp.is_autocast_available(kind)  # not on the meta device
    with torch.autocast(kind, enabled=False) if lowered else nullcontext():
        return vectors.mT @ vectors
