"""torchvision's inner transform without its resizing: images come resized."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from eyas.detectors.padding import Padding


class FixedSizeTransform(GeneralizedRCNNTransform):
    """Normalises and pads a whole batch at a time.

    Args:
        inner: the transform it replaces.
        padding: of the batch.
    """

    def __init__(self, inner: GeneralizedRCNNTransform, padding: Padding) -> None:
        super().__init__(
            inner.min_size, inner.max_size, inner.image_mean, inner.image_std, inner.size_divisible, inner.fixed_size
        )
        self.padding = padding

    def forward(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """The normalised and padded batch with the images' sizes before padding, and the targets unchanged.

        Args:
            images: (batch, 3, height, width) in [0, 1], or images of one size.
            targets: one per image.
        """
        batch = images if isinstance(images, Tensor) else torch.stack(list(images))
        mean, std = (batch.new_tensor(values).view(-1, 1, 1) for values in (self.image_mean, self.image_std))
        height, width = batch.shape[-2:]
        padded = self.padding.padded((height, width))
        batch = F.pad((batch - mean) / std, (0, padded[1] - width, 0, padded[0] - height))
        return ImageList(batch, [(height, width)] * len(batch)), None if targets is None else list(targets)
