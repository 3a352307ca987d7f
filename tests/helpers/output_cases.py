"""Heads made by hand for the tests of the methods that distil outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors, View


def probabilities(*rows: tuple[float, ...]) -> Tensor:
    """Logits whose softmax is these rows."""
    return torch.tensor(rows).log()


def odds(*rows: tuple[float, ...]) -> Tensor:
    """Logits whose sigmoid is these rows."""
    return torch.tensor(rows).logit()


def matched(
    rows: list[int],
    positives: list[int],
    *,
    slots: list[int] | None = None,
    divisor: float = 1.0,
    least: float = 0.0,
    name: str = "roi",
) -> MatchedAnchors:
    """Box targets are 0: the squared error of a delta is its squared norm."""
    return MatchedAnchors(
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor(positives, dtype=torch.int64),
        torch.tensor(slots or [0] * len(positives), dtype=torch.int64),
        torch.zeros(len(positives), 4),
        torch.tensor(divisor),
        f"loss_{name}_class",
        f"loss_{name}_box",
        least,
    )


def head(
    logits: Tensor,
    deltas: Tensor | None = None,
    counted: MatchedAnchors | None = None,
    *,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    background: int | None = None,
    coding: tuple[object, ...] = (10.0, 5.0),
) -> HeadOutput:
    """Deltas are (N, D, 4)."""
    boxes = [torch.zeros(len(logits), 4)]
    return HeadOutput(boxes, logits, activation, background, deltas, coding, counted, decoder=decoded)


def decoded(deltas: Tensor, boxes: Tensor) -> Tensor:
    """Boxes whose centres, and logarithms of whose sizes, are the deltas."""
    centre, half = deltas[:, :2], deltas[:, 2:].exp() / 2
    return torch.cat((centre - half, centre + half), dim=1)


def view(losses: dict[str, Tensor] | None = None, **heads: HeadOutput) -> View:
    """A view with these heads and no feature map."""
    return View([], [], (32, 32), heads=HeadOutputs(heads).heads, losses=losses or {})


class TwoHeads(nn.Module):
    """A linear student or teacher whose two heads share its parameters: objectness with boxes, and two classes.

    The second has distributions over two bins, too, of the numbers that are its deltas.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.objectness, self.classes, self.boxes = (
            nn.Parameter(torch.randn(5, columns, generator=generator)) for columns in (1, 3, 8)
        )

    def heads(self, inputs: Tensor, counted: dict[str, MatchedAnchors] | None = None) -> dict[str, HeadOutput]:
        """(N, 5) rows, each its own box, to the output of ``rpn`` and ``roi``."""
        counted = counted or {}
        deltas = (inputs @ self.boxes).view(-1, 2, 4)
        roi = head(inputs @ self.classes, deltas, counted.get("roi"), background=2)
        return {
            "rpn": head(inputs @ self.objectness, deltas[:, :1], counted.get("rpn"), activation="sigmoid"),
            "roi": replace(roi, distributions=deltas.reshape(-1, 4, 2)),
        }
