"""The head outputs of torchvision's RetinaNet, FCOS and SSD: ``anchors``, and FCOS's ``centerness``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection._utils import BoxLinearCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from eyas.detectors.torchvision.call_recorder import Call, record_call
from eyas.detectors.torchvision.levels import cell_layout
from eyas.ops.cells import CellLayout
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors

OneStage: TypeAlias = RetinaNet | FCOS | SSD


def head_names(network: OneStage) -> tuple[str, ...]:
    """The names of a one-stage detector's heads."""
    return ("anchors", "centerness") if isinstance(network, FCOS) else ("anchors",)


@contextmanager
def record_loss(network: OneStage) -> Iterator[tuple[Call, Call]]:
    """Records the anchors and the loss of a training pass inside the context, for `training_head_outputs`.

    All three compute the loss in ``compute_loss(targets, head_outputs, anchors, matched_idxs)``: a method of the
    network in SSD, of its head in the others.
    """
    owner = network if isinstance(network, SSD) else network.head
    with record_call(network, "anchor_generator") as anchors, record_call(owner, "compute_loss") as loss:
        yield anchors, loss


def training_head_outputs(network: OneStage, calls: tuple[Call, Call]) -> HeadOutputs:
    """Every head of a recorded pass with its matched anchors."""
    _, maps = calls[0].arguments
    targets, outputs, anchors, owners = calls[1].arguments
    matched = _matched(network, targets, outputs["cls_logits"].detach(), anchors, torch.stack(list(owners)))
    heads = _outputs(network, outputs, anchors, cell_layout(network.anchor_generator, maps))
    heads["anchors"] = replace(heads["anchors"], matched=matched)
    if "centerness" in heads:
        heads["centerness"] = replace(heads["centerness"], matched=_centerness_matched(matched))
    return HeadOutputs(heads)


def score_anchors(network: OneStage, batch: ImageList, maps: Mapping[str, Tensor]) -> dict[str, HeadOutput]:
    """Every head for the network's own anchors, from the normalised and padded images and the backbone's maps."""
    levels = list(maps.values())
    own = network.anchor_generator(batch, levels)
    return _outputs(network, network.head(levels), own, cell_layout(network.anchor_generator, levels))


def _outputs(
    network: OneStage, outputs: Mapping[str, Tensor], anchors: Sequence[Tensor], layout: CellLayout
) -> dict[str, HeadOutput]:
    coder = network.box_coder
    ltrb, softmax = isinstance(coder, BoxLinearCoder), isinstance(network, SSD)
    heads = {
        "anchors": HeadOutput(
            boxes=anchors,
            logits=outputs["cls_logits"].flatten(0, 1),
            activation="softmax" if softmax else "sigmoid",
            background=0 if softmax else None,
            deltas=outputs["bbox_regression"].reshape(-1, 1, 4),
            coding=("ltrb", coder.normalize_by_size) if ltrb else ("centre_size", *coder.weights),
            layout=layout,
            decoder=coder.decode if ltrb else coder.decode_single,
        )
    }
    if isinstance(network, FCOS):
        centerness = outputs["bbox_ctrness"].reshape(-1, 1)
        heads["centerness"] = HeadOutput(anchors, centerness, "sigmoid", layout=layout)
    return heads


def _matched(
    network: OneStage,
    targets: Sequence[Mapping[str, Tensor]],
    logits: Tensor,
    anchors: Sequence[Tensor],
    owners: Tensor,
) -> MatchedAnchors:
    """The rows that the losses count.

    Logits are (batch, A, C), anchors (A, 4) in each image. Owners are torchvision's ``matched_idxs``, (batch, A): the
    index of the anchor's object, or negative.
    """
    found = owners >= 0
    positives = torch.where(found.flatten())[0]
    boxes = [target["boxes"][owner[owner >= 0]] for target, owner in zip(targets, owners, strict=True)]
    if isinstance(network, SSD):
        rows = torch.cat([torch.where(chosen.flatten())[0] for chosen in _mined(network, targets, logits, owners)])
    else:  # FCOS has no anchors between thresholds
        rows = torch.where(owners.flatten() != Matcher.BETWEEN_THRESHOLDS)[0]
    coder, objects, own = network.box_coder, torch.cat(boxes), torch.cat(list(anchors))[positives]
    reverse = isinstance(coder, BoxLinearCoder)  # its arguments are in the opposite order
    return MatchedAnchors(
        rows=rows,
        positives=positives,
        slots=torch.zeros_like(positives),
        box_targets=coder.encode(own, objects) if reverse else coder.encode_single(objects, own),
        divisor=_divisor(network, found.sum(1)),
        class_loss="classification",
        box_loss="bbox_regression",
        least=1,
    )


def _centerness_matched(matched: MatchedAnchors) -> MatchedAnchors:
    """FCOS trains the centerness on the rows of its box loss, and divides all its losses by one number."""
    none, targets = matched.positives[:0], matched.box_targets[:0]
    return MatchedAnchors(matched.positives, none, none, targets, matched.divisor, "bbox_ctrness", "", least=1)


def _mined(
    network: SSD, targets: Sequence[Mapping[str, Tensor]], logits: Tensor, owners: Tensor
) -> tuple[Tensor, Tensor]:
    """SSD's positives and hard negatives (those of highest loss in each image), each (batch, A) bool.

    Repeats the operations of torchvision's ``SSD.compute_loss``, which does not expose its choice. Like it, this
    counts positives among the negatives where an image has too few negatives.
    """
    positive = owners >= 0
    labels = torch.zeros_like(owners)
    for label, owner, chosen, target in zip(labels, owners, positive, targets, strict=True):
        label[chosen] = target["labels"][owner[chosen]]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    order = loss.masked_fill(positive, -torch.inf).sort(1, descending=True)[1]
    return positive, order.sort(1)[1] < network.neg_to_pos_ratio * positive.sum(1, keepdim=True)


def _divisor(network: OneStage, counts: Tensor) -> Tensor:
    """SSD and FCOS divide by the positives of the batch; ``counts`` are those of each image.

    RetinaNet divides each image's sum by its own positives, at least 1, and averages over images. No single divisor
    does that; the sum of those numbers over the images does where they are equal.
    """
    if isinstance(network, RetinaNet):
        return counts.clamp(min=1).sum().float()
    return counts.sum().float()
