"""RetinaNet, FCOS and SSD: torchvision's losses recomputed from the head outputs; scores of another's anchors."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from eyas.detectors import TorchvisionDetector, build
from eyas.detectors.torchvision.call_recorder import record_call
from eyas.nn.taps import Taps
from eyas.types import DetectorWithHeads, EyasError, HeadOutput, Target

CLASSES = ("cat", "dog")
FAMILIES = ("retinanet", "fcos", "ssd")
LIGHT: dict[str, dict[str, Any]] = {
    "retinanet": {"fpn_channels": 16, "head_convs": 1},
    "fcos": {"fpn_channels": 64, "head_convs": 1},
    "ssd": {"extra_channels": 16},
}


@cache
def light(family: str, seed: int = 0, norm: str = "frozen", **more: Any) -> TorchvisionDetector:
    torch.manual_seed(seed)
    options = {**LIGHT[family], "norm": norm, **more}
    detector = build(family, CLASSES, backbone="mobilenet_v3_small", options=options)
    assert isinstance(detector, TorchvisionDetector)
    if family != "ssd":  # all but constant otherwise
        torch.nn.init.normal_(detector.network.head.classification_head.cls_logits.weight, std=0.3)
    return detector


def target(boxes: list[list[float]], labels: list[int]) -> Target:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


OBJECTS = [target([[4.0, 5, 40, 50], [50, 10, 90, 60]], [1, 0]), target([[20.0, 20, 60, 60]], [1])]
CASES = {
    "objects": OBJECTS,
    "empty": [target([], []), target([], [])],
    "mixed": [target([], []), OBJECTS[1]],
}


def gradients(detector: TorchvisionDetector, losses: dict[str, Tensor]) -> list[Tensor]:
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_losses_bit_for_bit(family: str, case: str) -> None:
    detector = light(family).train()
    assert isinstance(detector, DetectorWithHeads)
    torch.manual_seed(3)
    plain = detector.losses(images(), CASES[case])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    losses, outputs = detector.losses_and_heads(images(), CASES[case])
    assert torch.equal(torch.get_rng_state(), state)  # nothing more was drawn
    assert list(losses) == list(plain)
    assert all(torch.equal(losses[name], plain[name]) for name in plain)
    pairs = zip(gradients(detector, losses), gradients(detector, plain), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert outputs.proposals is None


def class_targets(head: HeadOutput, truth: Tensor, shift: int) -> Tensor:
    """(N,) label of every row as the head has it, -1 without: of the object that a row's box target decodes to."""
    labels = torch.full((len(head.logits),), -1)
    assert head.matched is not None
    labels[head.matched.positives] = truth + shift
    return labels


def decoded(detector: TorchvisionDetector, head: HeadOutput) -> Tensor:
    """The objects of the positive rows, out of their box targets."""
    assert head.matched is not None
    anchors = torch.cat(list(head.boxes))[head.matched.positives]
    coder = detector.network.box_coder
    decode = getattr(coder, "decode_single", coder.decode)
    boxes: Tensor = decode(head.matched.box_targets, anchors)
    return boxes


def labels_of(boxes: Tensor, positives: Tensor, targets: list[Target], anchors: int) -> Tensor:
    """Labels of objects found again by their boxes, each in the image of its row."""
    labels = []
    for box, row in zip(boxes, positives.tolist(), strict=True):
        truth = targets[row // anchors]
        distance = (truth["boxes"] - box).abs().amax(dim=1)
        assert distance.min() < 1e-3
        labels.append(int(truth["labels"][distance.argmin()]))
    return torch.tensor(labels, dtype=torch.int64)


def class_loss(family: str, head: HeadOutput, labels: Tensor) -> Tensor:
    """Summed over the matched rows."""
    assert head.matched is not None
    logits, labels = head.logits[head.matched.rows], labels[head.matched.rows]
    if family == "ssd":
        return F.cross_entropy(logits, labels.clamp(min=0), reduction="sum")
    hot = torch.zeros_like(logits)
    hot[labels >= 0, labels[labels >= 0]] = 1
    return sigmoid_focal_loss(logits, hot, reduction="sum")


def box_loss(detector: TorchvisionDetector, family: str, head: HeadOutput) -> Tensor:
    assert head.matched is not None and head.deltas is not None
    positives, box_targets = head.matched.positives, head.matched.box_targets
    deltas = head.deltas[positives, head.matched.slots]
    if family == "fcos":
        boxes = detector.network.box_coder.decode(deltas, torch.cat(list(head.boxes))[positives])
        return generalized_box_iou_loss(boxes, decoded(detector, head), reduction="sum")
    if family == "ssd":
        return F.smooth_l1_loss(deltas, box_targets, reduction="sum")
    return F.l1_loss(deltas, box_targets, reduction="sum")


def recomputed(detector: TorchvisionDetector, family: str, images: Tensor, targets: list[Target]) -> None:
    losses, outputs = detector.train().losses_and_heads(images, targets)
    head = outputs.heads["anchors"]
    matched = head.matched
    assert matched is not None
    assert (matched.class_loss, matched.box_loss) == ("classification", "bbox_regression")
    assert bool((matched.slots == 0).all())
    truth = labels_of(decoded(detector, head), matched.positives, targets, len(head.boxes[0]))
    labels = class_targets(head, truth, shift=1 if family == "ssd" else 0)
    divisor = matched.divisor.clamp(min=matched.least)
    torch.testing.assert_close(class_loss(family, head, labels) / divisor, losses["classification"])
    torch.testing.assert_close(box_loss(detector, family, head) / divisor, losses["bbox_regression"])
    if family == "fcos":
        left_top, right_bottom = matched.box_targets[:, :2], matched.box_targets[:, 2:]
        low, high = torch.minimum(left_top, right_bottom), torch.maximum(left_top, right_bottom)
        wanted = (low / high).prod(dim=1).sqrt()
        centre = outputs.heads["centerness"]
        assert centre.matched is not None and centre.deltas is None
        logits = centre.logits[centre.matched.rows, 0]
        total = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        torch.testing.assert_close(total / divisor, losses[centre.matched.class_loss])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["fcos", "ssd"])
def test_torchvisions_losses_follow_from_the_head_outputs(family: str, case: str) -> None:
    recomputed(light(family), family, images(), CASES[case])


@pytest.mark.parametrize("targets", [[OBJECTS[0]], [OBJECTS[1]], CASES["empty"], [OBJECTS[0]] * 2])
def test_retinanets_losses_follow_where_images_have_equally_many_positives(targets: list[Target]) -> None:
    recomputed(light("retinanet"), "retinanet", images()[: len(targets)], targets)


def test_retinanets_losses_image_by_image() -> None:
    detector = light("retinanet").train()
    losses, outputs = detector.losses_and_heads(images(), OBJECTS)
    head = outputs.heads["anchors"]
    matched = head.matched
    assert matched is not None
    anchors = len(head.boxes[0])
    truth = labels_of(decoded(detector, head), matched.positives, OBJECTS, anchors)
    labels, total, counts = class_targets(head, truth, 0), torch.zeros(()), []
    for index in range(2):
        rows = matched.rows[matched.rows // anchors == index]
        counts.append(int((matched.positives // anchors == index).sum()))
        hot = torch.zeros(len(rows), 2)
        hot[labels[rows] >= 0, labels[rows][labels[rows] >= 0]] = 1
        total = total + sigmoid_focal_loss(head.logits[rows], hot, reduction="sum") / counts[-1] / 2
    torch.testing.assert_close(total, losses["classification"])
    assert counts[0] != counts[1] and float(matched.divisor) == sum(counts)
    assert len(matched.rows) < 2 * anchors  # those between the thresholds are left out


def test_ssd_mines_three_negatives_for_each_positive() -> None:
    outputs = light("ssd").train().losses_and_heads(images(), CASES["mixed"])[1]
    head = outputs.heads["anchors"]
    matched = head.matched
    assert matched is not None
    positives, anchors = len(matched.positives), len(head.boxes[0])
    negatives = matched.rows[positives:]
    assert positives > 0 and len(matched.rows) == 4 * positives == len(matched.rows.unique())
    assert int((matched.rows // anchors).min()) == 1  # none in the image without objects
    loss = -head.logits.log_softmax(dim=1)[anchors:, 0]
    loss[matched.positives - anchors] = -1
    assert set(negatives.tolist()) == set((loss.topk(3 * positives).indices + anchors).tolist())


def test_shapes_and_coding() -> None:
    shapes = {
        "retinanet": ("sigmoid", None, 2, ("centre_size", 1.0, 1.0, 1.0, 1.0)),
        "fcos": ("sigmoid", None, 2, ("ltrb", True)),
        "ssd": ("softmax", 0, 3, ("centre_size", 10.0, 10.0, 5.0, 5.0)),
    }
    for family, (activation, background, columns, coding) in shapes.items():
        heads = light(family).train().losses_and_heads(images(), OBJECTS)[1].heads
        head = heads["anchors"]
        rows = sum(len(boxes) for boxes in head.boxes)
        assert head.logits.shape == (rows, columns)
        assert head.deltas is not None and head.deltas.shape == (rows, 1, 4)
        assert (head.activation, head.background, head.coding) == (activation, background, coding)
        assert list(heads) == (["anchors", "centerness"] if family == "fcos" else ["anchors"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_the_head_outputs_reaches_the_backbone(family: str) -> None:
    detector = light(family, norm="batch").train()
    first = next(detector.network.backbone.parameters())
    for head in detector.losses_and_heads(images(), OBJECTS)[1].heads.values():
        for output in (head.logits, head.deltas):
            if output is not None:
                (gradient,) = torch.autograd.grad(output.square().sum(), first, retain_graph=True)
                assert bool(gradient.any())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_anchors_in_one_pass_with_taps(family: str) -> None:
    student, teacher = light(family).train(), light(family, seed=5).eval()
    network = teacher.network
    trained = student.losses_and_heads(images(), OBJECTS)[1]
    boxes = {name: head.boxes for name, head in trained.heads.items()}
    calls: list[Any] = []
    handle = network.backbone.register_forward_hook(lambda module, inputs, output: calls.append(output))
    with (
        Taps(network, teacher.levels) as taps,
        record_call(network, "postprocess_detections") as detections,
    ):
        answered = teacher.score_boxes(images(), boxes, proposals=True)
    handle.remove()
    assert len(calls) == 1 and list(taps.features) == list(teacher.levels)
    assert detections.arguments == () and answered.proposals is None
    outputs = network.head(list(calls[0].values()))
    head = answered.heads["anchors"]
    assert torch.equal(head.logits, outputs["cls_logits"].flatten(0, 1))
    assert head.deltas is not None and torch.equal(head.deltas[:, 0], outputs["bbox_regression"].flatten(0, 1))
    assert head.matched is None and not torch.allclose(head.logits, trained.heads["anchors"].logits)
    assert list(answered.heads) == list(boxes)
    own = student.eval().score_boxes(images(), boxes)
    for name, expected in trained.heads.items():  # nothing in them differs between training and evaluation
        torch.testing.assert_close(own.heads[name].logits, expected.logits)
    assert teacher.score_boxes(images(), {}).heads == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_float32_under_autocast(family: str) -> None:
    detector = light(family).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, trained = detector.losses_and_heads(images(), CASES["mixed"])
        boxes = {name: head.boxes for name, head in trained.heads.items()}
        with torch.no_grad():
            answered = detector.eval().score_boxes(images(), boxes)
    assert all(loss.isfinite() for loss in losses.values())
    for head in [*trained.heads.values(), *answered.heads.values()]:
        assert head.logits.dtype == torch.float32 and head.boxes[0].dtype == torch.float32
        assert head.deltas is None or head.deltas.dtype == torch.float32


@torch.no_grad()
def test_bad_requests_are_refused() -> None:
    detector = light("retinanet").eval()
    other = light(
        "retinanet", anchor_sizes=((20, 30, 40), (40, 60, 80), (80, 120, 160), (160, 240, 320), (320, 480, 640))
    )
    boxes = {"anchors": other.train().losses_and_heads(images(), OBJECTS)[1].heads["anchors"].boxes}
    with pytest.raises(
        EyasError, match=r"not the same ones: they differ by up to .* pixels; give both .* same anchors"
    ):
        detector.score_boxes(images(), boxes)
    with pytest.raises(EyasError, match=r"student scores 2 x \d+ boxes, the teacher's own anchors are 2 x \d+ boxes"):
        detector.score_boxes(torch.rand(2, 3, 128, 192), boxes)
    with pytest.raises(EyasError, match="RetinaNet has no head centerness, it has anchors"):
        detector.score_boxes(images(), {"centerness": boxes["anchors"]})
    with pytest.raises(EyasError, match="evaluation mode"):
        detector.train().score_boxes(images(), boxes)
    with pytest.raises(EyasError, match="training mode"):
        detector.eval().losses_and_heads(images(), OBJECTS)
