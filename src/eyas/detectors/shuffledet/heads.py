"""ShuffleDet's outputs as the two heads that methods compare, ``classes`` and ``confidence``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from eyas.detectors.shuffledet.anchors import BatchAnchors
from eyas.detectors.shuffledet.loss import EXP_THRESHOLD, AnchorMatches, decode, encode
from eyas.ops.cells import CellLayout
from eyas.types import HeadOutput, MatchedAnchors, Size

HEADS = ("classes", "confidence")
CODING = ("squeezedet", EXP_THRESHOLD)
"""Centre shifts in anchor sizes, and logarithms of sizes, linear above the threshold."""


class Raw(NamedTuple):
    """The output of the last convolution, float32; A = H * W * K anchors in row, column, shape order.

    Classes are logits (batch, A, C), confidence logits (batch, A), deltas (batch, A, 4).
    """

    classes: Tensor
    confidence_logits: Tensor
    deltas: Tensor

    @property
    def confidence(self) -> Tensor:
        """(batch, A) in [0, 1]."""
        return self.confidence_logits.sigmoid()


def head_outputs(raw: Raw, boxes: Sequence[Tensor], size: Size) -> dict[str, HeadOutput]:
    """Both heads for the anchors of each image, (A, 4) xyxy, on a map of (H, W)."""
    layout = CellLayout((size,), (raw.classes.shape[1] // (size[0] * size[1]),))
    logits, confidence = raw.classes.flatten(0, 1), raw.confidence_logits.reshape(-1, 1)
    deltas = raw.deltas.reshape(-1, 1, 4)
    return {
        "classes": HeadOutput(boxes, logits, "softmax", deltas=deltas, coding=CODING, layout=layout, decoder=decode),
        "confidence": HeadOutput(boxes, confidence, "sigmoid", layout=layout),
    }


def matched_heads(
    raw: Raw, anchors: BatchAnchors, size: Size, matches: AnchorMatches, ignored: Tensor | None
) -> dict[str, HeadOutput]:
    """Both heads with their matched anchors, on a map of (H, W).

    Classes and boxes are trained on the anchors matched to an object, and divided by their number. The confidence is
    trained on all anchors that are not ignored, (batch, A), and divided here by their number (its loss has two terms
    with their own factors). No divisor includes the detector's loss weights.
    """
    heads = head_outputs(raw, list(anchors.images(len(raw.classes))), size)
    objects = matches.image * len(anchors) + matches.anchor
    counted = torch.ones_like(raw.confidence_logits, dtype=torch.bool) if ignored is None else ~ignored
    counted[matches.image, matches.anchor] = True  # an object keeps its anchor even inside an ignore region
    everywhere = torch.where(counted.flatten())[0]
    targets = encode(matches.boxes, anchors.matched(matches.image, matches.anchor))
    classes = _matched(objects, objects, targets, "loss_class", "loss_box")
    confidence = _matched(everywhere, objects[:0], targets[:0], "loss_confidence", "")
    return {
        "classes": replace(heads["classes"], matched=classes),
        "confidence": replace(heads["confidence"], matched=confidence),
    }


def _matched(rows: Tensor, positives: Tensor, box_targets: Tensor, class_loss: str, box_loss: str) -> MatchedAnchors:
    slots, divisor = torch.zeros_like(positives), torch.tensor(float(len(rows)), device=rows.device)
    return MatchedAnchors(rows, positives, slots, box_targets, divisor, class_loss, box_loss, least=1)
