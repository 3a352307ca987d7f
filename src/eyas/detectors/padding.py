"""The padding of a batch before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.types import Size


@dataclass(frozen=True)
class Padding:
    """Padding on the right and at the bottom.

    Attributes:
        divisible: both sides become a multiple of it.
        minimum: (height, width), the least size after padding.
    """

    divisible: int
    minimum: Size = (1, 1)

    def padded(self, size: Size) -> Size:
        """(height, width) after padding."""
        height, width = (
            -(-max(side, least) // self.divisible) * self.divisible
            for side, least in zip(size, self.minimum, strict=True)
        )
        return height, width
