"""Rows of dense heads by cell, and the boxes they predict, against the detectors' anchors and their own detections."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyas.detectors import TorchvisionDetector, build
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


def noise(like: Tensor) -> Tensor:
    """Standard normal numbers that depend on the shape alone."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(like.numel()))


@cache
def light(family: str) -> Any:
    torch.manual_seed(0)
    backbone, options = LIGHT[family]
    norm = {} if family == "shuffledet" else {"norm": "frozen"}
    detector = build(family, CLASSES, backbone=backbone, options={**options, **norm})
    # Initial outputs hardly differ between cells.
    for name, module in detector.network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("backbone") and ".conv." not in name:
            module.register_forward_hook(lambda _, inputs, output: output + noise(output))
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


def probability(name: str, head: HeadOutput, detector: Any) -> Tensor:
    """(N,) the highest probability of a class of each row, without the background."""
    classes = len(detector.classes) if name != "rpn" else 1
    values = head.logits.softmax(1) if head.activation == "softmax" else head.logits.sigmoid()
    return values[:, -classes:].max(dim=1).values


@pytest.mark.parametrize("family", LIGHT)
def test_scores_are_the_highest_of_each_cell(family: str) -> None:
    detector, name = light(family), HEAD.get(family, "anchors")
    heads = outputs(detector).heads
    rows = probability(name, heads[name], detector)
    if family == "shuffledet":
        rows = rows * heads["confidence"].logits[:, 0].sigmoid()
    layout = heads[name].layout
    assert layout is not None
    expected = [torch.zeros(2, *size) for size in layout.sizes]
    for value, image, level, y, x, _ in zip(rows, *layout.cells(torch.arange(len(rows))), strict=True):
        expected[level][image, y, x] = torch.maximum(expected[level][image, y, x], value)
    with torch.no_grad():
        for proposals in (False, True):
            alone = detector.score_boxes(images(), {}, proposals=proposals, scores=True)
            assert list(alone.scores) == list(detector.levels) and alone.heads == {}
            for found, wanted in zip(alone.scores.values(), expected, strict=True):
                torch.testing.assert_close(found, wanted)
                assert found.dtype == torch.float32 and len(found.unique()) > 1
        assert detector.score_boxes(images(), {}).scores == {}


def test_torchvisions_unused_first_label_is_no_score() -> None:
    """Its own COCO weights have a column 0 that is never trained."""
    plain = light("retinanet")
    model = TorchvisionDetector(copy.deepcopy(plain.network), ("dog",)).eval()
    assert model.network.head.classification_head.num_classes == 2
    with torch.no_grad():
        scores = model.score_boxes(images(), {}, scores=True).scores
        columns = model.network.head(
            list(model.network.backbone(model.network.transform(images())[0].tensors).values())
        )
    dog = columns["cls_logits"].sigmoid()[..., 1]
    assert torch.equal(torch.stack([level.flatten(1).amax(1) for level in scores.values()]).amax(0), dog.amax(1))
