"""The head outputs of torchvision's Faster R-CNN: ``rpn`` (region proposals) and ``roi`` (second stage)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from eyas.detectors.cell_scores import cell_scores
from eyas.detectors.head_checks import check_anchors
from eyas.detectors.torchvision.call_recorder import Call, record_call
from eyas.detectors.torchvision.levels import cell_layout
from eyas.types import HeadOutput, HeadOutputs, MatchedAnchors

HEADS = ("rpn", "roi")


@contextmanager
def record_stages(network: FasterRCNN) -> Iterator[dict[str, Call]]:
    """Records the steps of a training pass that lead to the losses, by name, for `training_head_outputs`."""
    steps = {
        network.rpn: ("anchor_generator", "compute_loss", "fg_bg_sampler"),
        network.roi_heads: ("select_training_samples", "box_predictor"),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(record_call(owner, name)) for owner, names in steps.items() for name in names}


def training_head_outputs(network: FasterRCNN, calls: Mapping[str, Call]) -> HeadOutputs:
    """Both heads of a recorded pass with their matched anchors, and the proposals that trained the second stage."""
    objectness, deltas, _, box_targets = calls["compute_loss"].arguments
    matched = _rpn_matched(calls["fg_bg_sampler"].result, box_targets)
    rpn = _rpn_output(network, calls["anchor_generator"], objectness, deltas, matched)
    proposals, _, labels, box_targets = calls["select_training_samples"].result
    matched = _roi_matched(torch.cat(labels), torch.cat(box_targets))
    logits, deltas = calls["box_predictor"].result
    roi = _roi_output(network, proposals, logits, deltas, matched)
    return HeadOutputs({"rpn": rpn, "roi": roi}, proposals)


def score_boxes(
    network: FasterRCNN,
    batch: ImageList,
    maps: Mapping[str, Tensor],
    boxes: Mapping[str, Sequence[Tensor]],
    proposals: bool,
    scored: Iterable[str],
) -> HeadOutputs:
    """See `TorchvisionDetector.score_boxes`, for the normalised and padded images and the maps of the backbone.

    ``scored`` are the names of all levels where the scores of cells are requested, else none.
    """
    heads: dict[str, HeadOutput] = {}
    scores: dict[str, Tensor] = {}
    scored = tuple(scored)
    found: Sequence[Tensor] | None = None
    rpn, roi, levels = network.rpn, network.roi_heads, list(maps.values())
    with record_call(rpn, "head") as head, record_call(rpn, "anchor_generator") as anchors:
        if proposals:
            found, _ = rpn(batch, dict(maps))
        elif "rpn" in boxes or scored:  # the same without NMS
            rpn.head(levels)
            rpn.anchor_generator(batch, levels)
    if "rpn" in boxes or scored:
        dense = _rpn_output(network, anchors, *concat_box_prediction_layers(*head.result))
        scores = cell_scores(scored, dense) if scored else {}
    if "rpn" in boxes:
        check_anchors("rpn", boxes["rpn"], anchors.result)
        heads["rpn"] = dense
    if "roi" in boxes:
        pooled = roi.box_roi_pool(dict(maps), list(boxes["roi"]), batch.image_sizes)
        heads["roi"] = _roi_output(network, boxes["roi"], *roi.box_predictor(roi.box_head(pooled)))
    return HeadOutputs(heads, found, scores)


def _rpn_output(
    network: FasterRCNN, anchors: Call, logits: Tensor, deltas: Tensor, matched: MatchedAnchors | None = None
) -> HeadOutput:
    """The anchors are a recorded call of their generator."""
    coder, (_, maps) = network.rpn.box_coder, anchors.arguments
    return HeadOutput(
        anchors.result,
        logits.reshape(-1, 1),
        "sigmoid",
        deltas=deltas.reshape(-1, 1, 4),
        coding=("centre_size", *coder.weights),
        matched=matched,
        layout=cell_layout(network.rpn.anchor_generator, maps),
        decoder=coder.decode_single,
    )


def _roi_output(
    network: FasterRCNN, boxes: Sequence[Tensor], logits: Tensor, deltas: Tensor, matched: MatchedAnchors | None = None
) -> HeadOutput:
    coder = network.roi_heads.box_coder
    coding = ("centre_size", *coder.weights)
    deltas = deltas.reshape(len(logits), deltas.shape[1] // 4, 4)
    return HeadOutput(boxes, logits, "softmax", 0, deltas, coding, matched, decoder=coder.decode_single)


def _rpn_matched(sampled: tuple[list[Tensor], list[Tensor]], box_targets: Sequence[Tensor]) -> MatchedAnchors:
    """The sampled anchors, positives first as in torchvision's loss, which divides by their number."""
    positives, negatives = (torch.where(torch.cat(masks))[0] for masks in sampled)
    rows, targets = torch.cat((positives, negatives)), torch.cat(list(box_targets))[positives]
    return _matched(rows, positives, torch.zeros_like(positives), targets, ("loss_objectness", "loss_rpn_box_reg"))


def _roi_matched(labels: Tensor, box_targets: Tensor) -> MatchedAnchors:
    """The sampled proposals: labels (n,) int64, 0 for the background, and the deltas (n, 4) of each one's object."""
    positives, rows = torch.where(labels > 0)[0], torch.arange(len(labels), device=labels.device)
    return _matched(rows, positives, labels[positives], box_targets[positives], ("loss_classifier", "loss_box_reg"))


def _matched(
    rows: Tensor, positives: Tensor, slots: Tensor, box_targets: Tensor, losses: tuple[str, str]
) -> MatchedAnchors:
    divisor = torch.tensor(float(len(rows)), device=rows.device)
    return MatchedAnchors(rows, positives, slots, box_targets, divisor, *losses)
