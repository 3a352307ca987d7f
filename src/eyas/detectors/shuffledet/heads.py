"""ShuffleDet's outputs as the two heads that methods compare: ``classes`` and ``confidence``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from eyas.detectors.head_checks import check_anchors
from eyas.detectors.shuffledet.loss import EXP_THRESHOLD, AnchorMatches, encode
from eyas.types import HeadOutput, MatchedAnchors

HEADS = ("classes", "confidence")
CODING = ("squeezedet", EXP_THRESHOLD)
"""Centre shifts in anchor sizes, and log sizes that go on linearly above the threshold."""


class Raw(NamedTuple):
    """The head's output, float32; A = H * W * K anchors in row, column, shape order."""

    classes: Tensor
    """(batch, A, C) logits."""
    confidence_logits: Tensor
    """(batch, A)."""
    deltas: Tensor
    """(batch, A, 4)."""

    @property
    def confidence(self) -> Tensor:
        """(batch, A) in [0, 1]."""
        return self.confidence_logits.sigmoid()


def head_outputs(raw: Raw, anchors: Tensor) -> dict[str, HeadOutput]:
    """Both heads on the anchors of every image, (A, 4) xyxy."""
    boxes = [anchors] * len(raw.classes)
    deltas = raw.deltas.reshape(-1, 1, 4)
    return {
        "classes": HeadOutput(boxes, raw.classes.flatten(0, 1), "softmax", deltas=deltas, coding=CODING),
        "confidence": HeadOutput(boxes, raw.confidence_logits.reshape(-1, 1), "sigmoid"),
    }


def outputs_on(boxes: Mapping[str, Sequence[Tensor]], raw: Raw, anchors: Tensor) -> dict[str, HeadOutput]:
    """The heads that ``boxes`` names.

    Raises:
        EyasError: boxes that are not the anchors of each image.
    """
    heads = head_outputs(raw, anchors)
    for name, given in boxes.items():
        check_anchors(name, given, heads[name].boxes)
    return {name: heads[name] for name in boxes}


def with_matched(raw: Raw, anchors: Tensor, assigned: AnchorMatches, ignored: Tensor | None) -> dict[str, HeadOutput]:
    """Both heads with the rows that the losses count.

    Classes and boxes are trained on the anchors that answer for an object, and divided by their number; the confidence
    on all but those in ignore regions, and divided here by their number (its loss has two terms with factors of their
    own). The detector's loss weights are in no divisor.

    Args:
        raw: of the training pass.
        anchors: (A, 4) xyxy.
        assigned: the objects.
        ignored: (batch, A) bool, or None where there are no ignore regions.
    """
    heads = head_outputs(raw, anchors)
    objects = assigned.image * len(anchors) + assigned.anchor
    counted = torch.ones_like(raw.confidence_logits, dtype=torch.bool) if ignored is None else ~ignored
    counted[assigned.image, assigned.anchor] = True  # an object keeps its anchor even inside an ignore region
    everywhere = torch.where(counted.flatten())[0]
    targets = encode(assigned.boxes, anchors[assigned.anchor])
    return {
        "classes": replace(heads["classes"], matched=_assigned(objects, objects, targets, "loss_class", "loss_box")),
        "confidence": replace(
            heads["confidence"], matched=_assigned(everywhere, objects[:0], targets[:0], "loss_confidence", "")
        ),
    }


def _assigned(rows: Tensor, positives: Tensor, box_targets: Tensor, class_loss: str, box_loss: str) -> MatchedAnchors:
    slots, divisor = torch.zeros_like(positives), torch.tensor(float(max(len(rows), 1)), device=rows.device)
    return MatchedAnchors(rows, positives, slots, box_targets, divisor, class_loss, box_loss)
