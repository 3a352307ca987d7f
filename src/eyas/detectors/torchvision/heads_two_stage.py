"""The head outputs of torchvision's Faster R-CNN: ``rpn`` (region proposals) and ``roi`` (second stage)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from eyas.detectors.head_checks import check_anchors
from eyas.detectors.torchvision.call_recorder import Call, record_call
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors

HEADS = ("rpn", "roi")


@dataclass(frozen=True)
class StageCalls:
    """The steps of torchvision's own training pass that lead to the losses.

    Attributes:
        anchors: of ``rpn.anchor_generator``.
        rpn_loss: of ``rpn.compute_loss``.
        sampler: of ``rpn.fg_bg_sampler``.
        samples: of ``roi_heads.select_training_samples``.
        predictor: of ``roi_heads.box_predictor``.
    """

    anchors: Call
    rpn_loss: Call
    sampler: Call
    samples: Call
    predictor: Call


@contextmanager
def record_stages(network: FasterRCNN) -> Iterator[StageCalls]:
    """Records one training pass of the network inside the context, for `training_head_outputs`."""
    rpn, roi = network.rpn, network.roi_heads
    with (
        record_call(rpn, "anchor_generator") as anchors,
        record_call(rpn, "compute_loss") as rpn_loss,
        record_call(rpn, "fg_bg_sampler") as sampler,
        record_call(roi, "select_training_samples") as samples,
        record_call(roi, "box_predictor") as predictor,
    ):
        yield StageCalls(anchors, rpn_loss, sampler, samples, predictor)


def training_head_outputs(network: FasterRCNN, calls: StageCalls) -> HeadOutputs:
    """Both heads of a recorded pass with their matched anchors, and the proposals that trained the second stage."""
    objectness, deltas, _, box_targets = calls.rpn_loss.arguments
    matched = _rpn_matched(calls.sampler.result, box_targets)
    rpn = _rpn_output(network, calls.anchors.result, objectness, deltas, matched)
    proposals, _, labels, box_targets = calls.samples.result
    matched = _roi_matched(torch.cat(labels), torch.cat(box_targets))
    logits, deltas = calls.predictor.result
    roi = _roi_output(network, proposals, logits, deltas, matched)
    return HeadOutputs({"rpn": rpn, "roi": roi}, proposals)


def score_boxes(
    network: FasterRCNN,
    batch: ImageList,
    maps: Mapping[str, Tensor],
    boxes: Mapping[str, Sequence[Tensor]],
    proposals: bool,
) -> HeadOutputs:
    """The outputs for given boxes of the heads that ``boxes`` names, and the network's own proposals if requested.

    Args:
        network: in evaluation mode.
        batch: normalised and padded images.
        maps: of the backbone, by level.
        boxes: head name -> for each image (n, 4) xyxy.
        proposals: also give the network's own proposals.

    Raises:
        EyasError: anchors that are not the network's own.
    """
    heads: dict[str, HeadOutput] = {}
    found: Sequence[Tensor] | None = None
    if proposals or "rpn" in boxes:
        found, own, outputs = _propose(network, batch, maps, proposals)
        if "rpn" in boxes:
            check_anchors("rpn", boxes["rpn"], own)
            heads["rpn"] = _rpn_output(network, own, *concat_box_prediction_layers(*outputs))
    if "roi" in boxes:
        roi = network.roi_heads
        pooled = roi.box_roi_pool(dict(maps), list(boxes["roi"]), batch.image_sizes)
        heads["roi"] = _roi_output(network, boxes["roi"], *roi.box_predictor(roi.box_head(pooled)))
    return HeadOutputs(heads, found)


def _propose(
    network: FasterRCNN, batch: ImageList, maps: Mapping[str, Tensor], proposals: bool
) -> tuple[Sequence[Tensor] | None, list[Tensor], tuple[list[Tensor], list[Tensor]]]:
    """Proposals if requested, else None; the anchors of each image; logits and deltas of each level."""
    rpn = network.rpn
    if not proposals:
        levels = list(maps.values())
        outputs = rpn.head(levels)
        return None, rpn.anchor_generator(batch, levels), outputs
    with record_call(rpn, "head") as head, record_call(rpn, "anchor_generator") as anchors:
        found, _ = rpn(batch, dict(maps))
    return found, anchors.result, head.result


def _rpn_output(
    network: FasterRCNN,
    anchors: Sequence[Tensor],
    logits: Tensor,
    deltas: Tensor,
    matched: MatchedAnchors | None = None,
) -> HeadOutput:
    coding = ("centre_size", *network.rpn.box_coder.weights)
    return HeadOutput(anchors, logits.reshape(-1, 1), "sigmoid", None, deltas.reshape(-1, 1, 4), coding, matched)


def _roi_output(
    network: FasterRCNN, boxes: Sequence[Tensor], logits: Tensor, deltas: Tensor, matched: MatchedAnchors | None = None
) -> HeadOutput:
    coding = ("centre_size", *network.roi_heads.box_coder.weights)
    deltas = deltas.reshape(len(logits), deltas.shape[1] // 4, 4)
    return HeadOutput(boxes, logits, "softmax", 0, deltas, coding, matched)


def _rpn_matched(sampled: tuple[list[Tensor], list[Tensor]], box_targets: Sequence[Tensor]) -> MatchedAnchors:
    """The sampled anchors, positives first as in torchvision's loss, which divides by their number."""
    positives, negatives = (torch.where(torch.cat(masks))[0] for masks in sampled)
    rows = torch.cat((positives, negatives))
    return MatchedAnchors(
        rows=rows,
        positives=positives,
        slots=torch.zeros_like(positives),
        box_targets=torch.cat(list(box_targets))[positives],
        divisor=torch.tensor(float(len(rows)), device=rows.device),
        class_loss="loss_objectness",
        box_loss="loss_rpn_box_reg",
    )


def _roi_matched(labels: Tensor, box_targets: Tensor) -> MatchedAnchors:
    """The sampled proposals.

    Args:
        labels: (n,) int64, 0 for the background.
        box_targets: (n, 4), the deltas of each proposal's object.
    """
    positives = torch.where(labels > 0)[0]
    return MatchedAnchors(
        rows=torch.arange(len(labels), device=labels.device),
        positives=positives,
        slots=labels[positives],
        box_targets=box_targets[positives],
        divisor=torch.tensor(float(len(labels)), device=labels.device),
        class_loss="loss_classifier",
        box_loss="loss_box_reg",
    )
