"""The adaptation layer from the student's channels to the teacher's, on a whole map or only at given cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cells = tuple[Tensor, Tensor, Tensor]
"""(image, row, column) indices of N cells, each (N,) int64."""


def patches_at(features: Tensor, cells: Cells, kernel_size: int) -> Tensor:
    """The zero-padded k x k neighbourhoods of N cells.

    Args:
        features: (batch, C, H, W).
        cells: the N centre cells. They must lie on the map, which is not checked.
        kernel_size: k, odd.

    Returns:
        (N, k*k*C), with rows outermost, then columns, then channels.
    """
    image, row, column = cells
    reach = kernel_size // 2
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
    _, height, width, channels = padded.shape
    corner = (image * height + row) * width + column
    window = torch.arange(kernel_size, device=features.device)
    indices = corner[:, None, None] + window[:, None] * width + window
    return padded.reshape(-1, channels).index_select(0, indices.flatten()).view(-1, kernel_size**2 * channels)


def convolve_at(features: Tensor, cells: Cells, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A stride-1 convolution with "same" padding, evaluated at N cells only, as one matrix product.

    Args:
        features: (batch, C_in, H, W).
        cells: the N cells, on the map.
        weight: (C_out, C_in, k, k), k odd.
        bias: (C_out,), or None.

    Returns:
        (N, C_out), equal to ``F.conv2d(features, weight, bias, padding=k // 2)`` at the cells, with equal gradients.
    """
    patches = patches_at(features, cells, weight.shape[-1])
    return F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias)


class Adapter(nn.Module):
    """A convolution from the student's channels to the teacher's, optionally with a ReLU (Wang et al., section 3.2).

    Args:
        student_channels: input channels.
        teacher_channels: output channels.
        kernel_size: odd; 3 in the paper.
        rectified: end in a ReLU, as the authors' code does because its teacher features come from a ReLU.
        init_std: standard deviation of the initial weights, a normal truncated at two standard deviations; 1e-4 in the
            authors' code. Biases start at 0.

    Raises:
        ValueError: the kernel size is even.
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
        """`forward` at N cells, (N, C_teacher), computed only there."""
        adapted = convolve_at(features, cells, self.conv.weight, self.conv.bias)
        return F.relu(adapted) if self.rectified else adapted
