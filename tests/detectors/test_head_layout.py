"""Rows of dense heads by cell, and the boxes they predict, against the detectors' anchors and their own detections."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.detectors import build
from eyas.ops.boxes import clip
from eyas.types import Detector, DetectorWithHeads, EyasError, HeadOutput, HeadOutputs, Target

CLASSES = ("cat", "dog")
LIGHT: dict[str, tuple[str | None, dict[str, Any]]] = {
    "retinanet": ("mobilenet_v3_small", {"fpn_channels": 16, "head_convs": 1, "score_threshold": 0.0}),
    "fcos": ("mobilenet_v3_small", {"fpn_channels": 64, "head_convs": 1, "score_threshold": 0.0}),
    "ssd": ("mobilenet_v3_small", {"extra_channels": 16, "score_threshold": 0.0}),
    "faster_rcnn": ("mobilenet_v3_small_fpn", {"fpn_channels": 16, "head_width": 32}),
    "shuffledet": (None, {"width": 0.25, "stem_channels": 8, "anchor_shapes": [(10, 12), (24, 20), (40, 44)]}),
}
HEAD = {"faster_rcnn": "rpn", "shuffledet": "classes"}
SIZES = [(64, 96), (96, 64)]


@cache
def light(family: str) -> Any:
    torch.manual_seed(0)
    backbone, options = LIGHT[family]
    norm = {} if family == "shuffledet" else {"norm": "frozen"}
    detector = build(family, CLASSES, backbone=backbone, options={**options, **norm})
    with torch.no_grad():
        for name, parameter in detector.network.named_parameters():
            if "cls_logits.weight" in name or "bbox_reg.weight" in name or name == "head.weight":
                parameter.normal_(std=0.2)
    return detector


def images(size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def targets() -> list[Target]:
    return [
        {"boxes": torch.tensor([[4.0, 5, 40, 50]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def outputs(detector: DetectorWithHeads, size: tuple[int, int] = (64, 96)) -> HeadOutputs:
    """Those of the detector for its own anchors in evaluation mode, and its proposals."""
    detector.network.train()
    found = detector.losses_and_heads(images(size), targets())[1]
    dense = {name: head.boxes for name, head in found.heads.items() if head.layout is not None}
    detector.network.eval()
    with torch.no_grad():
        return detector.score_boxes(images(size), dense, proposals=True)


def predicted(head: HeadOutput) -> Tensor:
    """(batch, A, 4)."""
    return head.decode(torch.arange(len(head.logits))).unflatten(0, (len(head.boxes), -1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", LIGHT)
def test_each_row_is_the_anchor_of_its_cell(family: str, size: tuple[int, int]) -> None:
    detector: Detector = light(family)
    for name, head in outputs(light(family), size).heads.items():
        assert head.layout is not None, name
        levels = list(detector.levels.values())
        assert len(levels) == len(head.layout.sizes)
        grids = [level.grid(cells, size).anchors() for level, cells in zip(levels, head.layout.sizes, strict=True)]
        boxes = torch.cat(list(head.boxes))
        for level, found in enumerate(head.layout.maps(boxes)):
            expected = grids[level].expand_as(found)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("family", ["retinanet", "fcos", "ssd", "shuffledet"])
def test_detections_are_decoded_rows(family: str) -> None:
    """Each detection is the clipped box of a row."""
    detector = light(family)
    boxes = clip(predicted(outputs(detector).heads[HEAD.get(family, "anchors")]), (64, 96))
    with torch.no_grad():
        detections = detector.predict(images())
    assert sum(len(found["boxes"]) for found in detections) > 20
    for found, own in zip(detections, boxes, strict=True):
        distances = (found["boxes"][:, None] - own).abs().amax(dim=2).amin(dim=1)
        assert float(distances.amax()) < 1e-3


def test_proposals_are_decoded_rows() -> None:
    found = outputs(light("faster_rcnn"))
    assert found.proposals is not None
    for proposals, own in zip(found.proposals, clip(predicted(found.heads["rpn"]), (64, 96)), strict=True):
        assert len(proposals) > 10
        assert float((proposals[:, None] - own).abs().amax(dim=2).amin(dim=1).amax()) < 1e-3


@pytest.mark.parametrize("family", LIGHT)
def test_boxes_of_the_training_targets_are_the_objects_and_gradients_reach_the_deltas(family: str) -> None:
    detector = light(family)
    detector.network.train()
    for name, head in detector.losses_and_heads(images(), targets())[1].heads.items():
        assert (head.layout is None) == (name == "roi")
        if head.deltas is None:
            with pytest.raises(EyasError, match="predicts no boxes"):
                head.decode(torch.arange(3))
            continue
        assert head.matched is not None
        rows, slots = head.matched.positives, head.matched.slots
        made = HeadOutput(
            head.boxes,
            head.logits,
            head.activation,
            deltas=head.deltas.detach().index_put((rows, slots), head.matched.box_targets),
            decoder=head.decoder,
        )
        torch.testing.assert_close(made.decode(rows, slots), targets()[0]["boxes"].expand(len(rows), 4))
        assert len(rows) > 0
        own = head.deltas.detach().clone().requires_grad_()
        again = HeadOutput(head.boxes, head.logits, head.activation, deltas=own, decoder=head.decoder)
        (gradient,) = torch.autograd.grad(again.decode(rows, slots).sum(), own)
        assert bool(gradient[rows, slots].any()) and bool(gradient.isfinite().all())
