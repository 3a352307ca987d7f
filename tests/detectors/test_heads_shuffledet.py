"""ShuffleDet's two heads: its losses recomputed from them, and its scores of another detector's anchors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.detectors import ShuffleDet
from eyas.detectors.shuffledet.loss import class_loss, decode
from eyas.distillation.distiller import Distiller
from eyas.methods import Vanilla
from eyas.nn.taps import Taps
from eyas.ops.boxes import clip, iou
from eyas.types import DetectorWithHeads, EyasError, Target

ANCHORS = ((10.0, 12.0), (24.0, 20.0), (40.0, 44.0))


def small(seed: int = 0, **options: Any) -> ShuffleDet:
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"width": 0.25, "stem_channels": 8, "anchor_shapes": ANCHORS}
    model = ShuffleDet(("a", "b", "c"), **{**defaults, **options})
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


def target(boxes: list[list[float]], labels: list[int], ignore: list[list[float]] | None = None) -> Target:
    made: Target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return made if ignore is None else {**made, "ignore": torch.tensor(ignore).reshape(-1, 4)}


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


EMPTY = target([], [])
OBJECTS = [target([[4.0, 5, 40, 50], [50, 10, 90, 60]], [1, 2]), target([[20.0, 20, 60, 60]], [0])]
# Two objects want one anchor, and one lies in an ignore region.
CROWDED = [target([[4.0, 5, 40, 50], [4, 5, 40, 50]], [1, 2], ignore=[[0.0, 0, 60, 60]]), EMPTY]
CASES = {"objects": OBJECTS, "empty": [EMPTY, EMPTY], "crowded": CROWDED}


def gradients(detector: ShuffleDet, losses: dict[str, Tensor]) -> list[Tensor]:
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_losses_bit_for_bit(case: str) -> None:
    detector = small().train()  # with its dropout
    assert isinstance(detector, DetectorWithHeads)
    torch.manual_seed(3)
    plain = detector.losses(images(), CASES[case])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    losses, outputs = detector.losses_and_heads(images(), CASES[case])
    assert torch.equal(torch.get_rng_state(), state)
    assert list(losses) == list(plain) == ["loss_class", "loss_box", "loss_confidence"]
    assert all(torch.equal(losses[name], plain[name]) for name in plain)
    pairs = zip(gradients(detector, losses), gradients(detector, plain), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert outputs.proposals is None and list(outputs.heads) == ["classes", "confidence"]


@pytest.mark.parametrize("case", CASES)
def test_losses_follow_from_the_head_outputs(case: str) -> None:
    targets = CASES[case]
    losses, outputs = small().train().losses_and_heads(images(), targets)
    classes, confidence = outputs.heads["classes"], outputs.heads["confidence"]
    matched, counted = classes.matched, confidence.matched
    assert matched is not None and counted is not None and classes.deltas is not None
    labels = torch.cat([item["labels"] for item in targets])
    total, divisor = class_loss(classes.logits[matched.rows], labels), matched.divisor.clamp(min=matched.least)
    torch.testing.assert_close(total / divisor, losses[matched.class_loss])
    deltas = classes.deltas[matched.positives, matched.slots]
    total = (deltas - matched.box_targets).square().sum()
    torch.testing.assert_close(5 * total / divisor, losses[matched.box_loss])
    truth = torch.cat([item["boxes"] for item in targets])
    own = torch.cat(list(classes.boxes))[matched.positives]
    torch.testing.assert_close(decode(matched.box_targets, own), truth, atol=1e-3, rtol=1e-4)
    assert (float(matched.divisor), matched.least) == (len(truth), 1) and len(matched.rows.unique()) == len(truth)
    # The confidence: 75 / 8 times the mean over objects, and 100 times the mean over the rest.
    sigmoid = confidence.logits[:, 0].sigmoid()
    quality = iou(clip(decode(deltas, own), (64, 96)), truth)
    on_objects = (sigmoid[matched.rows] - quality).square().sum() * 75 / 8 / divisor
    rest = torch.tensor(sorted(set(counted.rows.tolist()) - set(matched.rows.tolist())))
    on_rest = 100 * sigmoid[rest].square().mean()
    torch.testing.assert_close(on_objects + on_rest, losses[counted.class_loss])
    assert counted.class_loss == "loss_confidence" and float(counted.divisor) == len(counted.rows)
    assert confidence.deltas is None and len(counted.positives) == len(counted.box_targets) == 0


def test_ignored_anchors_are_not_counted_but_those_of_objects() -> None:
    outputs = small().train().losses_and_heads(images(), CROWDED)[1]
    classes, confidence = outputs.heads["classes"].matched, outputs.heads["confidence"].matched
    assert classes is not None and confidence is not None
    anchors = outputs.heads["confidence"].boxes[0]
    inside = anchors.clamp(min=0).minimum(torch.tensor([60.0, 60, 60, 60]))
    shared = (inside[:, 2:] - inside[:, :2]).clamp(min=0).prod(dim=1)
    ignored = set(torch.where(shared > 0.5 * (anchors[:, 2:] - anchors[:, :2]).prod(dim=1))[0].tolist())
    objects = set(classes.rows.tolist())
    assert objects & ignored
    assert set(range(2 * len(anchors))) - set(confidence.rows.tolist()) == ignored - objects


@torch.no_grad()
def test_shapes_and_scored_boxes_in_one_pass_with_taps() -> None:
    student, teacher = small().train(), small(seed=5, width=0.5, stem_channels=16).eval()
    trained = student.losses_and_heads(images(), OBJECTS)[1]
    boxes = {name: head.boxes for name, head in trained.heads.items()}
    rows = 2 * 4 * 6 * 3
    classes, confidence = trained.heads["classes"], trained.heads["confidence"]
    assert classes.logits.shape == (rows, 3) and confidence.logits.shape == (rows, 1)
    assert classes.deltas is not None and classes.deltas.shape == (rows, 1, 4)
    assert (classes.activation, confidence.activation) == ("softmax", "sigmoid")
    assert classes.background is None and confidence.background is None
    calls: list[Tensor] = []
    teacher.backbone.register_forward_hook(lambda module, inputs, output: calls.append(output))
    with Taps(teacher.network, teacher.levels) as taps:
        answered = teacher.score_boxes(images(), boxes, proposals=True)
    assert len(calls) == 1 and torch.equal(taps.features["backbone"], calls[0])
    raw, _ = teacher(images())
    assert torch.equal(answered.heads["classes"].logits, raw.classes.flatten(0, 1))
    assert torch.equal(answered.heads["confidence"].logits[:, 0].sigmoid(), raw.confidence.flatten())
    assert answered.heads["classes"].coding == classes.coding and answered.heads["classes"].matched is None
    assert answered.proposals is None
    assert list(teacher.score_boxes(images(), {"confidence": boxes["confidence"]}).heads) == ["confidence"]


def test_scored_boxes_equal_the_training_outputs() -> None:
    detector = small().eval()
    losses, trained = detector.losses_and_heads(images(), OBJECTS)
    answered = detector.score_boxes(images(), {name: head.boxes for name, head in trained.heads.items()})
    for name, head in trained.heads.items():
        assert torch.equal(answered.heads[name].logits, head.logits)
    assert losses["loss_class"].isfinite()


@pytest.mark.parametrize("head", ["classes", "confidence"])
def test_gradient_of_the_head_outputs_reaches_the_backbone(head: str) -> None:
    detector = small().train()
    detector.losses_and_heads(images(), OBJECTS)[1].heads[head].logits.square().sum().backward()
    first = next(detector.backbone.parameters())
    assert first.grad is not None and bool(first.grad.any())


def test_heads_are_float32_under_autocast() -> None:
    detector = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, trained = detector.losses_and_heads(images(), CROWDED)
        boxes = {name: head.boxes for name, head in trained.heads.items()}
        with torch.no_grad():
            answered = detector.eval().score_boxes(images(), boxes)
    assert all(loss.isfinite() for loss in losses.values())
    for head in [*trained.heads.values(), *answered.heads.values()]:
        assert head.logits.dtype == torch.float32
        assert head.deltas is None or head.deltas.dtype == torch.float32


def test_a_teacher_scores_the_anchors_of_images_of_different_sizes() -> None:
    """Only the student's targets say which part of a padded batch is the image."""
    targets: list[Target] = [{**OBJECTS[0], "size": (64, 96)}, {**OBJECTS[1], "size": (50, 70)}]
    student, teacher = small().train(), small(seed=5, width=0.5, stem_channels=16).eval()
    trained = student.losses_and_heads(images(), targets)[1]
    first, second = trained.heads["classes"].boxes
    assert not torch.equal(first, second)
    answered = teacher.score_boxes(images(), {name: head.boxes for name, head in trained.heads.items()})
    torch.testing.assert_close(list(answered.heads["classes"].boxes), [first, second])
    losses = Distiller(student, teacher, Vanilla(1.0)).train()(images(), targets)
    assert losses["vanilla"] > 0


@torch.no_grad()
def test_bad_requests_are_refused() -> None:
    detector = small().eval()
    boxes = small(anchor_shapes=((10.0, 12.0), (24.0, 21.0), (40.0, 44.0))).losses_and_heads(images(), OBJECTS)[1]
    given = {"classes": boxes.heads["classes"].boxes}
    with pytest.raises(EyasError, match=r"not the same ones: they differ by up to 0.50 pixels; give both .* same anch"):
        detector.score_boxes(images(), given)
    with pytest.raises(EyasError, match=r"student scores 2 x 72 boxes, the teacher's own anchors are 2 x 288 boxes"):
        detector.score_boxes(torch.rand(2, 3, 128, 192), given)
    with pytest.raises(EyasError, match="ShuffleDet has no head roi, it has classes, confidence"):
        detector.score_boxes(images(), {"roi": given["classes"]})
    with pytest.raises(EyasError, match="evaluation mode"):
        detector.train().score_boxes(images(), given)
