"""ShuffleDet's box coding, anchor matching and loss: pure functions on tensors.

They are SqueezeDet's (Wu et al., 2017, arXiv 1612.01051, equation 3) with the weights of the FGFI authors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.detectors.shuffledet.anchors import BatchAnchors
from eyas.ops.boxes import area, intersection, to_centre_size
from eyas.types import Target

EXP_THRESHOLD = 1.0
"""Above this, deltas of width and height are decoded along the tangent of exp, so that boxes stay finite."""
MIN_SIZE = 1.0
"""Pixels; thinner boxes are encoded with this side, so that its logarithm stays finite."""
OBJECT_WEIGHT = 75 / 8
"""Weight of the mean squared error of the confidence on matched anchors. The authors divide 75 times the sum by the
number of objects and by the 8 images of one GPU, and average over GPUs."""
IGNORED_SHARE = 0.5
"""Anchors with more than this share of their area in one ignore region are neither object nor background."""


@dataclass(frozen=True, eq=False)
class AnchorMatches:
    """The objects of a batch and the anchor matched to each.

    Attributes:
        image: (n,) int64, index in the batch.
        anchor: (n,) int64, index among the A anchors of the image. No (image, anchor) pair occurs twice.
        boxes: (n, 4) float32, xyxy, pixels: the objects.
        labels: (n,) int64.
    """

    image: Tensor
    anchor: Tensor
    boxes: Tensor
    labels: Tensor


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (dx, dy, dw, dh) that `decode` turns into ``boxes``; both (n, 4) xyxy.

    Widths and heights below `MIN_SIZE` are raised to it.
    """
    box, anchor = to_centre_size(boxes), to_centre_size(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    ratio = box[..., 2:].clamp(min=MIN_SIZE) / anchor[..., 2:]
    slope = math.exp(EXP_THRESHOLD)
    linear = ratio / slope + (EXP_THRESHOLD - 1)
    return torch.cat((shift, torch.where(ratio > slope, linear, ratio.log())), dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (..., 4) on anchors (..., 4) xyxy to boxes xyxy, pixels, not clipped."""
    anchor = to_centre_size(anchors)
    centre = anchor[..., :2] + deltas[..., :2] * anchor[..., 2:]
    growth = deltas[..., 2:].clamp(max=EXP_THRESHOLD).exp()
    growth = growth * (1 + (deltas[..., 2:] - EXP_THRESHOLD).clamp(min=0))
    half = anchor[..., 2:] * growth / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def match_anchors(anchors: BatchAnchors, targets: Sequence[Target]) -> AnchorMatches:
    """Match every object of a batch to an anchor of its own.

    Each object, in order, takes the free anchor of highest IoU; where none overlaps, the nearest free one by the
    squared distance of (cx, cy, w, h). Ties go to the first anchor. Objects beyond the number of anchors get none.

    Args:
        anchors: those of the batch; those of padding are not free.
        targets: one per image.
    """
    boxes = torch.cat([target["boxes"] for target in targets]).to(anchors.boxes)
    labels = torch.cat([target["labels"] for target in targets]).to(boxes.device)
    counts = [len(target["boxes"]) for target in targets]
    image = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor(counts)).to(boxes.device)
    if len(boxes) == 0:
        return AnchorMatches(image, image, boxes.reshape(0, 4), labels)
    overlaps = anchors.overlaps(boxes, image)
    best, chosen = overlaps.max(dim=1)
    wanted = (image * len(anchors) + chosen).tolist()
    # If no two objects want the same anchor and every object overlaps one, the greedy choice is the plain maximum.
    if len(set(wanted)) < len(wanted) or bool((best <= 0).any()):
        images = zip(overlaps.split(counts), boxes.split(counts), anchors.images(len(targets)), strict=True)
        chosen = torch.cat([_match_greedily(*own) for own in images])
        kept = chosen >= 0
        return AnchorMatches(image[kept], chosen[kept], boxes[kept], labels[kept])
    return AnchorMatches(image, chosen, boxes, labels)


def _match_greedily(overlaps: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
    """The rule of `match_anchors` in one image: IoUs (n, A) to anchor indices (n,), -1 where no anchor is left.

    An IoU of -1 is that of an anchor which is not free.
    """
    overlaps = overlaps.clone()
    taken = (overlaps < 0).any(dim=0)
    left = len(anchors) - int(taken.sum())
    chosen: list[int] = []
    for row, box in zip(overlaps, boxes, strict=True):
        if len(chosen) >= left:
            chosen.append(-1)
            continue
        row[taken] = -1
        index = int(row.argmax())
        if row[index] <= 0:
            distance = (to_centre_size(box) - to_centre_size(anchors)).square().sum(dim=1)
            distance[taken] = torch.inf
            index = int(distance.argmin())
        taken[index] = True
        chosen.append(index)
    return torch.tensor(chosen, dtype=torch.int64, device=anchors.device)


def ignored_anchors(anchors: BatchAnchors, targets: Sequence[Target], share: float = IGNORED_SHARE) -> Tensor | None:
    """(batch, A) bool: anchors of padding, and those with more than ``share`` of their area in one ignore region.

    None where there is neither.
    """
    if not any(len(target.get("ignore", ())) for target in targets):
        return None if anchors.outside is None else anchors.outside.expand(len(targets), -1)
    rows = []
    for target, own in zip(targets, anchors.images(len(targets)), strict=True):
        regions = target.get("ignore", own.new_zeros((0, 4))).to(own)
        rows.append((intersection(regions[:, None], own) > share * area(own)).any(dim=0))
    found = torch.stack(rows)
    return found if anchors.outside is None else found | anchors.outside


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of every class on the softmax, summed to a scalar: logits (n, C), labels (n,)."""
    hot = F.one_hot(labels, logits.shape[1]).bool()
    log_p = logits.log_softmax(dim=1)
    # Bounded away from log(0); where the bound stops this gradient, the other term still has one.
    log_not_p = torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    return -torch.where(hot, log_p, log_not_p).sum()


def confidence_loss(
    confidence: Tensor,
    quality: Tensor,
    matches: AnchorMatches,
    ignored: Tensor | None,
    object_weight: float = OBJECT_WEIGHT,
    rest_weight: float = 100.0,
) -> Tensor:
    """Squared error of the confidence: against the decoded box's IoU on matched anchors, against 0 on the rest.

    Both terms are means over anchors, so neither depends on how many images a batch has.

    Args:
        confidence: (batch, A) in [0, 1].
        quality: (n,) IoU of the matched anchors' decoded boxes with their objects, without gradient.
        matches: n objects and their anchors.
        ignored: (batch, A) bool, left out of the rest; or None.
        object_weight: weight of the mean over the matched anchors.
        rest_weight: weight of the mean over the rest. (The authors divide an image's sum by its anchors minus the
            *batch's* objects, a number that may reach 0 for large batches of small images.)
    """
    on_objects = confidence[matches.image, matches.anchor]
    rest = torch.ones_like(confidence)
    if ignored is not None:
        rest.masked_fill_(ignored, 0)
    rest[matches.image, matches.anchor] = 0
    loss = object_weight / max(len(quality), 1) * (on_objects - quality).square().sum()
    return loss + rest_weight * (confidence.square() * rest).sum() / rest.sum().clamp(min=1)
