"""Adaptation layers: from the student's channels to the teacher's, dense or at chosen cells only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cells = tuple[Tensor, Tensor, Tensor]
"""(image, row, column) of N cells, each (N,) int64."""


def patches_at(features: Tensor, cells: Cells, kernel_size: int) -> Tensor:
    """The zero-padded k x k neighbourhood of chosen cells.

    Args:
        features: (batch, C, H, W).
        cells: N of them.
        kernel_size: k, odd.

    Returns:
        (N, k*k*C), row by row, then column by column, then channel by channel.
    """
    image, row, column = cells
    reach = kernel_size // 2
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
    _, height, width, channels = padded.shape
    corner = (image * height + row) * width + column
    window = torch.arange(kernel_size, device=features.device)
    places = corner[:, None, None] + window[:, None] * width + window
    return padded.reshape(-1, channels).index_select(0, places.flatten()).view(-1, kernel_size**2 * channels)


def convolve_at(features: Tensor, cells: Cells, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A stride-1 "same" convolution evaluated at N cells only, as one matrix product.

    Args:
        features: (batch, C_in, H, W).
        cells: where.
        weight: (C_out, C_in, k, k), k odd.
        bias: (C_out,), or None.

    Returns:
        (N, C_out), equal to ``F.conv2d(features, weight, bias, padding=k // 2)`` at the cells, with equal gradients.
    """
    patches = patches_at(features, cells, weight.shape[-1])
    return F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias)


class Adapter(nn.Module):
    """A convolution from the student's channels to the teacher's, optionally followed by a ReLU (FGFI section 3.2).

    Args:
        student_channels: channels in.
        teacher_channels: channels out.
        kernel_size: odd; 3 in the paper.
        rectified: end in a ReLU, as the authors' code does, its teacher feature being post-ReLU.
        init_std: the weights start from a normal truncated at two of these; 1e-4 in the authors' code. The biases start
            from 0.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        kernel_size: int = 3,
        rectified: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"the kernel of an adapter must be odd, got {kernel_size}")
        self.conv = nn.Conv2d(student_channels, teacher_channels, kernel_size, padding=kernel_size // 2)
        self.rectified = rectified
        nn.init.trunc_normal_(self.conv.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, C_student, H, W) to (batch, C_teacher, H, W)."""
        adapted = self.conv(features)
        return F.relu(adapted) if self.rectified else adapted

    def at(self, features: Tensor, cells: Cells) -> Tensor:
        """(N, C_teacher): what `forward` gives at N cells, computed there only."""
        adapted = convolve_at(features, cells, self.conv.weight, self.conv.bias)
        return F.relu(adapted) if self.rectified else adapted
