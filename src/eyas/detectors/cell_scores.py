"""How sure a dense head is of each cell, which weights cells without any ground truth."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from eyas.types import HeadOutput


def cell_scores(
    levels: Iterable[str], head: HeadOutput, *, first_column: int = 0, confidence: HeadOutput | None = None
) -> dict[str, Tensor]:
    """The highest class probability of each cell, over its anchors and the classes.

    Args:
        levels: tap names, in the order of the head's layout.
        head: a head that has one.
        first_column: columns before it are no class: a background, or one that is never trained.
        confidence: a sigmoid for each row, by which its probabilities are multiplied.

    Returns:
        Tap name -> (batch, H, W) float32 in [0, 1].
    """
    assert head.layout is not None
    probabilities = head.logits.softmax(dim=1) if head.activation == "softmax" else head.logits.sigmoid()
    if confidence is not None:
        probabilities = probabilities * confidence.logits.sigmoid()
    return dict(zip(levels, head.layout.highest(probabilities[:, first_column:].float()), strict=True))
