"""Checks that every adapter makes before it scores the boxes of another detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from eyas.types import EyasError

SAME_PIXELS = 0.01
"""Pixels; anchors closer than this are the same. Those of SSD differ in their last bits between devices."""


def check_heads(asked: Iterable[str], known: Sequence[str], detector: str) -> None:
    """Raises EyasError, with the detector's name, unless it has every requested head."""
    missing = [name for name in asked if name not in known]
    if missing:
        raise EyasError(
            f"{detector} has no head {', '.join(missing)}, it has {', '.join(known)}; methods that compare outputs "
            "need a student and a teacher of one family"
        )


def check_anchors(head: str, given: Sequence[Tensor], own: Sequence[Tensor]) -> None:
    """Raises EyasError unless the given anchors equal the detector's own; per image (n, 4) xyxy, pixels."""
    counts, own_counts = ([len(boxes) for boxes in images] for images in (given, own))
    advice = "give both detectors the same anchors, levels and input size"
    if counts != own_counts:
        raise EyasError(
            f"head {head}: the student scores {_counted(counts)}, the teacher's own anchors are "
            f"{_counted(own_counts)}; {advice}"
        )
    furthest = [(a - b).abs().amax() for a, b in zip(given, own, strict=True) if len(a)]
    if furthest and not bool(torch.stack(furthest).amax() < SAME_PIXELS):
        raise EyasError(
            f"head {head}: student and teacher both have {_counted(counts)} as anchors, but not the same ones: they "
            f"differ by up to {float(torch.stack(furthest).amax()):.2f} pixels; {advice}"
        )


def _counted(counts: Sequence[int]) -> str:
    """For equal counts "2 x 100 boxes", else the list."""
    if len(set(counts)) == 1:
        return f"{len(counts)} x {counts[0]} boxes"
    return f"{', '.join(map(str, counts))} boxes"
