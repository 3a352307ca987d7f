"""The outputs of torchvision's one-stage detectors, RetinaNet, FCOS and SSD: ``anchors``, and FCOS's ``centerness``."""

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

from eyas.detectors.head_checks import check_anchors
from eyas.detectors.torchvision.recording import Call, recording
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors

OneStage: TypeAlias = RetinaNet | FCOS | SSD


def head_names(network: OneStage) -> tuple[str, ...]:
    """The heads of a one-stage detector."""
    return ("anchors", "centerness") if isinstance(network, FCOS) else ("anchors",)


@contextmanager
def loss_call(network: OneStage) -> Iterator[Call]:
    """Records one training pass of the network inside the context, for `training_response`.

    All three compute their losses in a ``compute_loss(targets, head_outputs, anchors, matched_idxs)`` once anchors are
    matched: SSD's is the network's own, the others' their head's.
    """
    owner = network if isinstance(network, SSD) else network.head
    with recording(owner, "compute_loss") as call:
        yield call


def training_response(network: OneStage, call: Call) -> HeadOutputs:
    """Every head with what it was trained on in a recorded pass."""
    targets, outputs, anchors, matched = call.arguments
    counted = _assigned(network, targets, outputs["cls_logits"].detach(), anchors, torch.stack(list(matched)))
    heads = _outputs(network, outputs, anchors)
    heads["anchors"] = replace(heads["anchors"], matched=counted)
    if "centerness" in heads:
        heads["centerness"] = replace(heads["centerness"], matched=_centerness_assigned(counted))
    return HeadOutputs(heads)


def score_boxes(
    network: OneStage, batch: ImageList, maps: Mapping[str, Tensor], boxes: Mapping[str, Sequence[Tensor]]
) -> HeadOutputs:
    """The heads that ``boxes`` names.

    Args:
        network: in evaluation mode.
        batch: normalised and padded images.
        maps: the backbone's, by level.
        boxes: head name -> for each image (n, 4) xyxy, which must be the network's own anchors.

    Raises:
        EyasError: other anchors.
    """
    if not boxes:
        return HeadOutputs()
    levels = list(maps.values())
    own = network.anchor_generator(batch, levels)
    for name, given in boxes.items():
        check_anchors(name, given, own)
    heads = _outputs(network, network.head(levels), own)
    return HeadOutputs({name: heads[name] for name in boxes})


def _outputs(network: OneStage, outputs: Mapping[str, Tensor], anchors: Sequence[Tensor]) -> dict[str, HeadOutput]:
    coder = network.box_coder
    ltrb = isinstance(coder, BoxLinearCoder)
    softmax = isinstance(network, SSD)
    heads = {
        "anchors": HeadOutput(
            boxes=anchors,
            logits=outputs["cls_logits"].flatten(0, 1),
            activation="softmax" if softmax else "sigmoid",
            background=0 if softmax else None,
            deltas=outputs["bbox_regression"].reshape(-1, 1, 4),
            coding=("ltrb", coder.normalize_by_size) if ltrb else ("centre_size", *coder.weights),
        )
    }
    if isinstance(network, FCOS):
        heads["centerness"] = HeadOutput(anchors, outputs["bbox_ctrness"].reshape(-1, 1), "sigmoid")
    return heads


def _assigned(
    network: OneStage,
    targets: Sequence[Mapping[str, Tensor]],
    logits: Tensor,
    anchors: Sequence[Tensor],
    matched: Tensor,
) -> MatchedAnchors:
    """What the losses count: logits (batch, A, C), matched (batch, A) with an object's index or a negative number."""
    positives = torch.where(matched.flatten() >= 0)[0]
    objects = [target["boxes"][match[match >= 0]] for target, match in zip(targets, matched, strict=True)]
    return MatchedAnchors(
        rows=_class_rows(network, targets, logits, matched),
        positives=positives,
        slots=torch.zeros_like(positives),
        box_targets=_encode(network, torch.cat(objects), torch.cat(list(anchors))[positives]),
        divisor=_divisor(network, matched),
        class_loss="classification",
        box_loss="bbox_regression",
    )


def _centerness_assigned(matched: MatchedAnchors) -> MatchedAnchors:
    """FCOS trains the centerness where it trains boxes, and divides all its losses by the same number."""
    none = matched.positives[:0]
    return replace(
        matched,
        rows=matched.positives,
        positives=none,
        slots=none,
        box_targets=matched.box_targets[:0],
        class_loss="bbox_ctrness",
        box_loss="",
    )


def _class_rows(network: OneStage, targets: Sequence[Mapping[str, Tensor]], logits: Tensor, matched: Tensor) -> Tensor:
    if isinstance(network, SSD):
        return torch.cat([torch.where(chosen.flatten())[0] for chosen in _mined(network, targets, logits, matched)])
    # FCOS has no anchors between thresholds.
    return torch.where(matched.flatten() != Matcher.BETWEEN_THRESHOLDS)[0]


def _mined(
    network: SSD, targets: Sequence[Mapping[str, Tensor]], logits: Tensor, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """SSD's positives and its hard negatives, each (batch, A) bool: those of the highest loss, image by image.

    The rule and its operations are those of torchvision's ``SSD.compute_loss``, which gives away none of its choice.
    With more positives than negatives to be had, it counts positives among the negatives too; so does this.
    """
    positive = matched >= 0
    labels = torch.zeros_like(matched)
    for label, match, chosen, target in zip(labels, matched, positive, targets, strict=True):
        label[chosen] = target["labels"][match[chosen]]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    order = loss.masked_fill(positive, -torch.inf).sort(1, descending=True)[1]
    return positive, order.sort(1)[1] < network.neg_to_pos_ratio * positive.sum(1, keepdim=True)


def _divisor(network: OneStage, matched: Tensor) -> Tensor:
    """SSD and FCOS divide by the positives of the batch, at least 1.

    RetinaNet divides each image's sum by its own positives, at least 1, and averages over images, which no one number
    can express. Given here is the sum over the images of those numbers: the same wherever images have equally many.
    """
    counts = (matched >= 0).sum(1)
    if isinstance(network, RetinaNet):
        return counts.clamp(min=1).sum().float()
    return counts.sum().clamp(min=1).float()


def _encode(network: OneStage, objects: Tensor, anchors: Tensor) -> Tensor:
    coder = network.box_coder
    if isinstance(coder, BoxLinearCoder):  # which names its arguments the other way round
        targets: Tensor = coder.encode(anchors, objects)
    else:
        targets = coder.encode_single(objects, anchors)
    return targets
