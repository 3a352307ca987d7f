"""YOLOv9 and YOLOX: the library's losses recomputed from the head outputs; scores of another detector's cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import eyas
from eyas.detectors.libreyolo.yolov9 import labels
from eyas.ops.boxes import clip, iou
from eyas.types import DetectorWithHeads, EyasError, HeadOutput, Target
from helpers.tiny_yolo import MODELS, tiny_yolo

SIZE = (64, 64)
CELLS = 64 + 16 + 4
"""A 64 x 64 image has so many, at strides 8, 16 and 32."""
HEADS = {"yolov9": ["anchors", "distances"], "yolox": ["anchors", "objectness"]}


def target(*rows: tuple[float, ...]) -> Target:
    table = torch.tensor(rows).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


OBJECTS = [target((4, 5, 40, 50, 1), (20, 10, 60, 60, 0)), target((10, 20, 30, 60, 2))]
CASES = {"objects": OBJECTS, "none": [target(), target()], "mixed": [target(), OBJECTS[0]]}


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", MODELS)
def test_losses_are_those_of_losses_bit_for_bit(model: str, case: str) -> None:
    detector = tiny_yolo(model)
    assert isinstance(detector, DetectorWithHeads)
    plain = detector.losses(images(), CASES[case])
    losses, outputs = detector.losses_and_heads(images(), CASES[case])
    assert all(torch.equal(losses[name], plain[name]) for name in plain) and losses.keys() == plain.keys()
    assert list(outputs.heads) == HEADS[model] and outputs.proposals is None
    for head in outputs.heads.values():
        assert sum(len(boxes) for boxes in head.boxes) == len(head.logits) and head.matched is not None
        assert head.matched.class_loss in losses and (head.matched.box_loss or "iou_loss") in (*losses, "iou_loss")


def cells(head: HeadOutput) -> Tensor:
    """(N, 3): column, row and stride of each row's cell, from its box."""
    boxes = torch.cat(list(head.boxes))
    strides = boxes[:, 2:3] - boxes[:, :1]
    return torch.cat((boxes[:, :2] / strides, strides), dim=1)


def test_the_boxes_are_the_cells() -> None:
    head = tiny_yolo("yolov9").losses_and_heads(images(), OBJECTS)[1].heads["anchors"]
    first = head.boxes[0]
    assert len(first) == CELLS and first[0].tolist() == [0, 0, 8, 8] and first[9].tolist() == [8, 8, 16, 16]
    assert first[64].tolist() == [0, 0, 16, 16] and first[-1].tolist() == [32, 32, 64, 64]
    assert head.layout is not None and head.layout.sizes == ((8, 8), (4, 4), (2, 2))
    assert head.layout.maps(torch.cat(list(head.boxes)))[1][1, 2, 1].tolist() == [[16, 32, 32, 48]]


@pytest.mark.parametrize("model", MODELS)
def test_rows_decode_to_the_boxes_of_detections(model: str) -> None:
    """Without clipping; and the training targets of positives decode to objects."""
    detector = tiny_yolo(model)
    head = detector.losses_and_heads(images(), OBJECTS)[1].heads["anchors"]
    assert head.matched is not None and head.deltas is not None
    where = (head.matched.positives, head.matched.slots)
    aims = replace(head, deltas=head.deltas.detach().index_put(where, head.matched.box_targets)).decode(*where)
    assert len(aims) > 0
    for row, box in zip(head.matched.positives.tolist(), aims, strict=True):
        assert float((OBJECTS[row // CELLS]["boxes"] - box).abs().amax(1).amin()) < 1e-2
    with torch.no_grad():
        head = detector.eval().score_boxes(images(), {"anchors": head.boxes}).heads["anchors"]
    rows = clip(head.decode(torch.arange(2 * CELLS)), SIZE).view(2, CELLS, 4)
    for found, own in zip(detector.predict(images()), rows, strict=True):
        assert len(found["boxes"]) > 5
        assert float((found["boxes"][:, None] - own).abs().amax(2).amin(1).amax()) < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_yolov9_follow_from_its_heads(case: str) -> None:
    """With the library's own assignment; the distributions' rows are left, top, right and bottom of each cell."""
    detector, targets = tiny_yolo("yolov9"), CASES[case]
    losses, outputs = detector.losses_and_heads(images(), targets)
    head, sides = outputs.heads["anchors"], outputs.heads["distances"]
    assert head.matched is not None and sides.matched is not None and head.deltas is not None
    family: Any = detector.family
    criterion = family._loss(torch.device("cpu"), SIZE)
    logits, distances = head.logits.view(2, CELLS, 3), head.deltas.view(2, CELLS, 4)
    own = cells(head).view(2, CELLS, 3)
    centres = own[..., :2] + 0.5
    boxes = torch.cat((centres - distances[..., :2], centres + distances[..., 2:]), dim=2) * own[..., 2:]
    objects = labels(targets, SIZE) * torch.tensor([1, 64, 64, 64, 64])
    aligned, valid = criterion.matcher(objects, (logits.detach(), boxes.detach()))
    classes, matched = aligned.split((3, 4), dim=2)
    divisor = classes.sum().clamp(min=1)
    torch.testing.assert_close(head.matched.divisor, divisor)
    assert head.matched.positives.tolist() == torch.where(valid.flatten())[0].tolist()
    assert len(head.matched.rows) == 2 * CELLS and bool(valid.any()) == (case != "none")
    binary = F.binary_cross_entropy_with_logits(head.logits, classes.flatten(0, 1), reduction="sum")
    torch.testing.assert_close(losses["cls_loss"], 0.5 * binary / divisor)
    positive = head.matched.positives
    drawn = torch.cat((centres, centres), dim=2).flatten(0, 1)[positive] + head.matched.box_targets * torch.tensor(
        [-1, -1, 1, 1]
    )
    torch.testing.assert_close(drawn * own.flatten(0, 1)[positive, 2:], matched.flatten(0, 1)[positive])
    weights, aims = classes.flatten(0, 1)[positive].sum(1), head.matched.box_targets.flatten().clamp(0, 16 - 1.01)
    assert sides.matched.rows.tolist() == [4 * int(row) + side for row in positive for side in range(4)]
    rows, low = sides.logits[sides.matched.rows], aims.floor()
    cross = F.cross_entropy(rows, low.long(), reduction="none") * (low + 1 - aims)
    cross = cross + F.cross_entropy(rows, low.long() + 1, reduction="none") * (aims - low)
    total = (cross.view(-1, 4).sum(1) * weights).sum() / sides.matched.divisor
    torch.testing.assert_close(losses["dfl_loss"], 1.5 * total)
    assert sides.logits.shape == (2 * CELLS * 4, 16)
    bins = (sides.logits.softmax(1) * torch.arange(16)).sum(1).view(-1, 4)
    torch.testing.assert_close(bins, head.deltas.flatten(1))
    assert head.distributions is not None and head.distributions.flatten(0, 1).equal(sides.logits)


@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_yolox_follow_from_its_heads(case: str) -> None:
    detector, targets = tiny_yolo("yolox"), CASES[case]
    losses, outputs = detector.losses_and_heads(images(), targets)
    head, objectness = outputs.heads["anchors"], outputs.heads["objectness"]
    assert head.matched is not None and objectness.matched is not None and head.deltas is not None
    positive, own = head.matched.positives, cells(head)
    count = head.matched.divisor.clamp(min=1)
    assert head.matched.divisor == len(positive) and head.matched.rows.equal(positive)
    assert (len(positive) > 0) == (case != "none")

    def decoded(deltas: Tensor) -> Tensor:
        size = deltas[:, 2:].exp()
        centre = deltas[:, :2] + own[positive, :2]
        return torch.cat((centre - size / 2, centre + size / 2), dim=1) * own[positive, 2:]

    found, aims = decoded(head.deltas[positive, 0]), decoded(head.matched.box_targets)
    overlap = torch.stack([iou(a, b) for a, b in zip(found, aims, strict=True)]) if len(aims) else aims[:, 0]
    torch.testing.assert_close(losses["iou_loss"], 5 * (1 - overlap**2).sum() / count, rtol=1e-4, atol=1e-6)
    everywhere = torch.zeros(2 * CELLS).index_fill(0, positive, 1.0)
    binary = F.binary_cross_entropy_with_logits(objectness.logits[:, 0], everywhere, reduction="sum")
    torch.testing.assert_close(losses["obj_loss"], binary / count)
    assert objectness.matched.rows.tolist() == list(range(2 * CELLS))
    wanted = torch.zeros(len(positive), 3)
    for row, (place, box) in enumerate(zip(positive.tolist(), aims, strict=True)):
        objects = targets[place // CELLS]
        nearest = (objects["boxes"] - box).abs().amax(1)
        assert nearest.amin() < 1e-2
        wanted[row, objects["labels"][nearest.argmin()]] = overlap[row].detach()
    classes = F.binary_cross_entropy_with_logits(head.logits[positive], wanted, reduction="sum")
    torch.testing.assert_close(losses["cls_loss"], classes / count, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_boxes_of_another_are_scored(model: str) -> None:
    student, teacher = tiny_yolo(model), tiny_yolo(model, seed=1).eval()
    heads = student.losses_and_heads(images(), OBJECTS)[1].heads
    boxes = {name: head.boxes for name, head in heads.items()}
    found = teacher.score_boxes(images(), boxes)
    assert list(found.heads) == HEADS[model]
    outputs = teacher.outputs(images())[0]
    assert found.heads["anchors"].logits.equal(outputs[0].flatten(0, 1))
    with pytest.raises(EyasError, match=r"has no head roi, it has anchors"):
        teacher.score_boxes(images(), {"roi": boxes["anchors"]})
    with pytest.raises(EyasError, match="head anchors: the student scores 2 x 80 boxes"):
        teacher.score_boxes(images(), {"anchors": [one[:80] for one in boxes["anchors"]]})
    with pytest.raises(EyasError, match="scoring boxes needs the evaluation mode"):
        teacher.train().score_boxes(images(), boxes)


def test_localisation_distillation_reaches_the_box_towers_alone() -> None:
    student, teacher = tiny_yolo("yolov9"), tiny_yolo("yolov9", seed=1)
    distiller = eyas.Distiller(student, teacher, eyas.LD(weight=1.0)).train()
    for targets in (CASES["mixed"], CASES["none"]):
        loss = distiller(images(), targets)["ld"]
        head: Any = student.network.head
        boxes, scores = (next(tower.parameters()) for tower in (head.cv2, head.cv3))
        gradient, other = torch.autograd.grad(loss, (boxes, scores))
        assert (
            not other.any() and bool(gradient.isfinite().all()) and bool(gradient.any()) == (targets is CASES["mixed"])
        )
    with pytest.raises(EyasError, match="no head of the student has distributions of box sides"):
        eyas.Distiller(tiny_yolo("yolox"), tiny_yolo("yolox", seed=1), eyas.LD(weight=1.0))(images(), OBJECTS)


@pytest.mark.parametrize("kind", [eyas.Vanilla, eyas.Chen2017, eyas.BCKD])
@pytest.mark.parametrize("model", MODELS)
def test_output_methods_distil_every_head(model: str, kind: Any) -> None:
    student, teacher, method = tiny_yolo(model), tiny_yolo(model, seed=1), kind(weight=1.0)
    distiller = eyas.Distiller(student, teacher, method).train()
    losses = distiller(images(), OBJECTS)
    losses[method.name].backward()
    head: Any = student.network.head
    parts = (head.cv2, head.cv3) if model == "yolov9" else (head.obj_preds, head.cls_preds)
    for part in parts:
        gradients = torch.cat([parameter.grad.flatten() for parameter in part.parameters()])
        assert gradients.isfinite().all() and gradients.abs().sum() > 0


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_scores_are_those_of_the_most_likely_class_of_each_cell(model: str) -> None:
    detector = tiny_yolo(model).eval()
    heads = detector.family.heads(detector._maps(images()))
    best = heads["anchors"].logits.sigmoid().amax(dim=1)
    if model == "yolox":
        best = best * heads["objectness"].logits[:, 0].sigmoid()
    scores = detector.score_boxes(images(), {}, scores=True).scores
    assert list(scores) == list(detector.levels)
    flat = torch.cat([level.flatten(1) for level in scores.values()], dim=1)
    torch.testing.assert_close(flat.flatten(), best)
    height, width = images().shape[-2:]
    for tap, level in detector.levels.items():
        assert scores[tap].shape == (2, height // level.stride, width // level.stride)


def test_outputs_of_yolox_are_divided_by_one_where_nothing_is_positive() -> None:
    """As the library divides its own losses: a batch without objects has the objectness of every cell."""
    distiller = eyas.Distiller(tiny_yolo("yolox"), tiny_yolo("yolox", seed=1).eval(), eyas.Vanilla(1.0))
    losses = {name: float(loss.detach()) for name, loss in distiller(images(), CASES["none"]).items()}
    assert 0 < losses["vanilla"] < 100 * losses["obj_loss"]
    heads = tiny_yolo("yolox").losses_and_heads(images(), CASES["none"])[1].heads
    matched = [head.matched for head in heads.values()]
    assert [one and (float(one.divisor), one.least) for one in matched] == [(0, 1), (0, 1)]
