"""The normalisation and padding of a batch before the network sees it. Sizes may stay open in a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.types import Size


@dataclass(frozen=True)
class Padding:
    """Padding on the right and at the bottom: to multiples of ``divisible``, and to at least ``minimum``."""

    divisible: int
    minimum: Size = (1, 1)

    def padded(self, size: Size) -> Size:
        """(height, width) after padding."""
        # No negative number is divided, because ONNX would round the quotient towards zero.
        height, width = (
            (torch.sym_max(side, least) + self.divisible - 1) // self.divisible * self.divisible
            for side, least in zip(size, self.minimum, strict=True)
        )
        return height, width  # type: ignore[return-value]  # symbols in a trace

    def filled(self, images: Tensor, value: float = 0.0) -> Tensor:
        """Images (batch, channels, height, width), padded with a value."""
        height, width = images.shape[-2:]
        bottom, right = self.padded((height, width))
        return F.pad(images, (0, right - width, 0, bottom - height), value=value)

    def normalised(self, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Images (batch, 3, height, width) in [0, 1], normalised per channel and then padded with zeros."""
        means, deviations = (images.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
        return self.filled((images - means) / deviations)
