"""ShuffleNet v1 (Zhang et al., 2017, arXiv 1707.01083) as ShuffleDet uses it: group 3, a stem of stride 1, stride 16.

The widths, unit counts and strides are those of the FGFI authors' repository
(twangnh/Distilling-Object-Detectors-Shuffledet).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 3
STAGES = ((240, 4), (480, 6), (960, 4))
"""(output channels at width 1, units); the first unit of each has stride 2."""
LAST_CHANNELS = 768
"""Channels of the last feature map at width 1."""
_UNIT = 4 * GROUPS
"""A unit's bottleneck has a quarter of its output channels, in equal groups: outputs are multiples of this."""


def scaled(channels: int, width: float) -> int:
    """``channels * width``, to the nearest multiple of 12 (exact for the paper's widths 1, 0.5 and 0.25)."""
    return max(_UNIT, round(channels * width / _UNIT) * _UNIT)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel ``g * (C / groups) + i`` moves to ``i * groups + g``; (batch, C, height, width), memory format kept."""
    batch, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        rows = x.permute(0, 2, 3, 1).view(batch * height * width, groups, channels // groups)
        return rows.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """1x1 group convolution, channel shuffle, 3x3 depthwise convolution, 1x1 group convolution; BatchNorm after each.

    Args:
        in_channels: C_in.
        out_channels: C_out, a multiple of 12.
        stride: 1 or 2; with 2 the branch is concatenated to the average-pooled input.
        first: whether this unit follows the stem; its first convolution is then not grouped, because it has few inputs.
        shortcut: with stride 1, whether the input is added to the branch.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, first: bool = False, shortcut: bool = True
    ) -> None:
        super().__init__()
        middle = out_channels // 4
        branch = out_channels - in_channels if stride == 2 else out_channels
        if branch <= 0:
            raise ValueError(f"a unit of stride 2 needs more outputs than inputs, got {in_channels} to {out_channels}")
        self.stride = stride
        self.shortcut = shortcut and stride == 1
        self.reduce = nn.Conv2d(in_channels, middle, 1, groups=1 if first else GROUPS, bias=False)
        self.reduce_norm = nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(middle)
        # After a stem of 16 channels the first unit's last convolution is dense, as the authors'.
        groups = GROUPS if branch % GROUPS == 0 else 1
        self.expand = nn.Conv2d(middle, branch, 1, groups=groups, bias=False)
        self.expand_norm = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, C_in, H, W) to (batch, C_out, ceil(H / stride), ceil(W / stride)), never negative."""
        # The in-place operations are safe: BatchNorm keeps its input for the backward pass, not its output.
        branch = F.relu_(self.reduce_norm(self.reduce(x)))
        branch = self.depthwise_norm(self.depthwise(channel_shuffle(branch, GROUPS)))
        branch = self.expand_norm(self.expand(branch))
        if self.stride == 2:
            # The padding is not averaged in, as in TensorFlow's 'SAME' average pool.
            pooled = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            return torch.cat((pooled, F.relu_(branch)), dim=1)
        return F.relu_(branch.add_(x) if self.shortcut else branch)


class ShuffleNet(nn.Module):
    """The backbone of ShuffleDet: images to one feature map of stride 16.

    Args:
        width: multiplies the channels of every part but the stem.
        stem_channels: output channels of the first convolution.
        zero_init_residual: start every unit with a shortcut as the identity, by a zero scale in its last BatchNorm
            (Goyal et al., 2017, section 5.1). The network then trains like a shallow one at first, which avoids a long
            plateau in short trainings.
    """

    def __init__(self, width: float = 1.0, stem_channels: int = 24, *, zero_init_residual: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem_channels, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem_channels)
        self.units = nn.Sequential(*_units(width, stem_channels))
        self.out_channels = scaled(LAST_CHANNELS, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, ShuffleUnit) and module.shortcut and zero_init_residual:
                nn.init.zeros_(module.expand_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, H, W), normalised, to (batch, 768 * width, ceil(H / 16), ceil(W / 16))."""
        # ReLU commutes with the maximum, and after the pool its map is a quarter as large.
        x = F.relu_(F.max_pool2d(self.stem_norm(self.stem(x)), 3, stride=2, padding=1))
        features: Tensor = self.units(x)
        return features


def _units(width: float, in_channels: int) -> Iterator[ShuffleUnit]:
    first = True
    for channels, count in STAGES:
        for index in range(count):
            yield ShuffleUnit(in_channels, scaled(channels, width), stride=2 if index == 0 else 1, first=first)
            in_channels, first = scaled(channels, width), False
    yield ShuffleUnit(in_channels, in_channels)
    yield ShuffleUnit(in_channels, scaled(LAST_CHANNELS, width), shortcut=False)
