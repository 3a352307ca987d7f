"""Both stages of Faster R-CNN: their training targets, recomputed, and their scores for another detector's boxes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import rpn as rpn_module
from torchvision.models.detection.image_list import ImageList

from eyas.detectors import TorchvisionDetector, build
from eyas.detectors.torchvision.call_recorder import record_call
from eyas.nn.taps import Taps
from eyas.types import DetectorWithHeads, EyasError, HeadOutput, Target

CLASSES = ("cat", "dog")
BACKBONES = {"fpn": "mobilenet_v3_small_fpn", "plain": "mobilenet_v3_small_c4", "c4": "resnet18_c4"}
LIGHT: dict[str, dict[str, Any]] = {
    "fpn": {"fpn_channels": 16, "head_width": 32, "proposals_train": 50, "proposals_test": 50, "roi_samples": 16},
    "plain": {"head_width": 32, "proposals_train": 50, "proposals_test": 50, "roi_samples": 16, "rpn_samples": 40},
    "c4": {"proposals_train": 20, "proposals_test": 20, "roi_samples": 4},
}


@cache
def light(kind: str, seed: int = 0, **more: Any) -> TorchvisionDetector:
    torch.manual_seed(seed)
    options = {**LIGHT[kind], "norm": "frozen", **more}
    detector = build("faster_rcnn", CLASSES, backbone=BACKBONES[kind], options=options)
    assert isinstance(detector, TorchvisionDetector)
    with torch.no_grad():  # all but constant otherwise
        detector.network.rpn.head.cls_logits.weight.normal_(std=0.3)
        detector.network.rpn.head.bbox_pred.weight.normal_(std=0.05)
    return detector


def target(boxes: list[list[float]], label: int = 1) -> Target:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.full((len(boxes),), label)}


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


OBJECTS = [target([[4.0, 5, 40, 50], [50, 10, 90, 60]]), target([[20.0, 20, 60, 60]], label=0)]
EMPTY = [target([]), target([])]
MIXED = [target([]), OBJECTS[1]]
CASES = {"objects": OBJECTS, "empty": EMPTY, "mixed": MIXED}
PAIRS = [("fpn", "objects"), ("fpn", "empty"), ("fpn", "mixed"), ("plain", "mixed")]


def gradients(detector: TorchvisionDetector, losses: dict[str, Tensor]) -> list[Tensor]:
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("kind", "case"), PAIRS)
def test_losses_and_gradients_are_those_of_losses_bit_for_bit(kind: str, case: str) -> None:
    detector = light(kind).train()
    assert isinstance(detector, DetectorWithHeads)
    torch.manual_seed(3)
    plain = detector.losses(images(), CASES[case])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    losses, _ = detector.losses_and_heads(images(), CASES[case])
    assert torch.equal(torch.get_rng_state(), state)  # nothing more was drawn
    assert list(losses) == list(plain)
    assert all(torch.equal(losses[name], plain[name]) for name in plain)
    pairs = zip(gradients(detector, losses), gradients(detector, plain), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def chosen_deltas(head: HeadOutput) -> Tensor:
    assert head.matched is not None and head.deltas is not None
    return head.deltas[head.matched.positives, head.matched.slots]


@pytest.mark.parametrize(("kind", "case"), [*PAIRS, ("c4", "objects")])
def test_torchvisions_losses_follow_from_the_head_outputs(kind: str, case: str) -> None:
    losses, outputs = light(kind).train().losses_and_heads(images(), CASES[case])
    rpn, roi = outputs.heads["rpn"], outputs.heads["roi"]
    for head in (rpn, roi):
        matched = head.matched
        assert matched is not None
        assert len(head.logits) == sum(len(boxes) for boxes in head.boxes)
        assert float(matched.divisor) == len(matched.rows) > 0
        box_loss = F.smooth_l1_loss(chosen_deltas(head), matched.box_targets, beta=1 / 9, reduction="sum")
        torch.testing.assert_close(box_loss / matched.divisor, losses[matched.box_loss])
        labels = torch.zeros(len(head.logits), dtype=torch.int64)
        labels[matched.positives] = matched.slots if head is roi else 1
        logits, labels = head.logits[matched.rows], labels[matched.rows]
        if head is roi:
            total = F.cross_entropy(logits, labels, reduction="sum")
        else:
            total = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="sum")
        torch.testing.assert_close(total / matched.divisor, losses[matched.class_loss])
    assert (len(rpn.matched.positives) > 0) == (case != "empty")  # type: ignore[union-attr]
    assert outputs.proposals is not None
    assert all(torch.equal(a, b) for a, b in zip(outputs.proposals, roi.boxes, strict=True))


def test_shapes_and_coding() -> None:
    outputs = light("fpn").train().losses_and_heads(images(), OBJECTS)[1]
    rpn, roi = outputs.heads["rpn"], outputs.heads["roi"]
    # Strides 4 to 64 on 64 x 96, three anchors on each cell.
    anchors = 3 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
    assert [boxes.shape for boxes in rpn.boxes] == [(anchors, 4)] * 2
    assert rpn.logits.shape == (2 * anchors, 1) and rpn.deltas is not None and rpn.deltas.shape == (2 * anchors, 1, 4)
    assert (rpn.activation, rpn.background, rpn.coding) == ("sigmoid", None, ("centre_size", 1.0, 1.0, 1.0, 1.0))
    assert [boxes.shape for boxes in roi.boxes] == [(16, 4)] * 2
    assert roi.logits.shape == (32, 3) and roi.deltas is not None and roi.deltas.shape == (32, 3, 4)
    assert (roi.activation, roi.background, roi.coding) == ("softmax", 0, ("centre_size", 10.0, 10.0, 5.0, 5.0))


def test_box_targets_decode_to_the_objects() -> None:
    detector = light("fpn").train()
    outputs = detector.losses_and_heads(images(), OBJECTS)[1]
    truth = torch.cat([item["boxes"] for item in OBJECTS])
    for name, coder in (("rpn", detector.network.rpn.box_coder), ("roi", detector.network.roi_heads.box_coder)):
        head = outputs.heads[name]
        assert head.matched is not None
        boxes = coder.decode_single(head.matched.box_targets, torch.cat(list(head.boxes))[head.matched.positives])
        assert len(boxes) > 0
        assert (boxes[:, None] - truth).abs().amax(dim=2).amin(dim=1).max() < 1e-3


@pytest.mark.parametrize("head", ["rpn", "roi"])
def test_gradient_of_the_head_outputs_reaches_the_backbone(head: str) -> None:
    detector = light("fpn", norm="batch").train()
    detector.zero_grad()
    output = detector.losses_and_heads(images(), OBJECTS)[1].heads[head]
    assert output.deltas is not None
    (output.logits.square().sum() + output.deltas.square().sum()).backward()
    first = next(detector.network.backbone.parameters())
    assert first.grad is not None and bool(first.grad.any())


@pytest.mark.parametrize("kind", LIGHT)
def test_scored_training_boxes_equal_the_training_outputs(kind: str) -> None:
    detector = light(kind).train()
    with torch.no_grad():
        if kind == "c4":  # the last stage of its RoI head has BatchNorm of its own
            detector.network.roi_heads.box_head.eval()
        trained = detector.losses_and_heads(images(), OBJECTS)[1]
        boxes = {name: head.boxes for name, head in trained.heads.items()}
        scored = detector.eval().score_boxes(images(), boxes)
    assert scored.proposals is None
    for name, head in trained.heads.items():
        found = scored.heads[name]
        torch.testing.assert_close(found.logits, head.logits)
        torch.testing.assert_close(found.deltas, head.deltas)
        assert (found.activation, found.background, found.coding) == (head.activation, head.background, head.coding)
        assert found.matched is None
        assert all(torch.equal(a, b) for a, b in zip(found.boxes, head.boxes, strict=True))


@torch.no_grad()
def test_a_teacher_scores_the_students_proposals() -> None:
    teacher = light("fpn", seed=5).eval()
    student = light("fpn").train().losses_and_heads(images(), OBJECTS)[1]
    assert student.proposals is not None
    found = teacher.score_boxes(images(), {"roi": student.proposals}).heads["roi"]
    network = teacher.network
    batch, _ = network.transform(images())
    pooled = network.roi_heads.box_roi_pool(network.backbone(batch.tensors), list(student.proposals), batch.image_sizes)
    logits, deltas = network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))
    assert torch.equal(found.logits, logits)
    assert found.deltas is not None and torch.equal(found.deltas.flatten(1), deltas)
    assert not torch.allclose(found.logits, student.heads["roi"].logits)


@torch.no_grad()
def test_proposals_are_what_the_second_stage_would_classify() -> None:
    detector = light("fpn").eval()
    with record_call(detector.network.roi_heads, "box_roi_pool") as pooled:
        detector.predict(images())
    with record_call(detector.network.roi_heads, "box_roi_pool") as unused:
        outputs = detector.score_boxes(images(), {}, proposals=True)
    assert unused.arguments == () and outputs.heads == {} and outputs.proposals is not None
    assert [len(boxes) for boxes in outputs.proposals] == [50, 50]
    assert all(torch.equal(a, b) for a, b in zip(outputs.proposals, pooled.arguments[1], strict=True))


@torch.no_grad()
def test_rpn_outputs_are_equal_with_and_without_proposals() -> None:
    detector = light("fpn").eval()
    maps = detector.network.backbone(detector.network.transform(images())[0].tensors)
    anchors = detector.network.rpn.anchor_generator(detector.network.transform(images())[0], list(maps.values()))
    with record_call(detector.network.rpn, "filter_proposals") as filtered:
        plain = detector.score_boxes(images(), {"rpn": anchors})
    assert filtered.arguments == ()  # no NMS unless asked for
    both = detector.score_boxes(images(), {"rpn": anchors}, proposals=True)
    assert plain.proposals is None and both.proposals is not None
    assert torch.equal(plain.heads["rpn"].logits, both.heads["rpn"].logits)


class Counter:
    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.calls += 1


def test_one_backbone_pass_and_taps_fire() -> None:
    detector = light("fpn", seed=9)
    counter = Counter(detector.network.backbone)
    trained = detector.train().losses_and_heads(images(), OBJECTS)[1]
    assert counter.calls == 1
    names = ["backbone.body:0", *detector.levels]
    with torch.no_grad(), Taps(detector.network, names) as taps:
        boxes = {name: head.boxes for name, head in trained.heads.items()}
        detector.eval().score_boxes(images(), boxes, proposals=True)
    assert counter.calls == 2
    assert list(taps.features) == names
    plain = light("plain")
    with torch.no_grad(), Taps(plain.network, ["backbone"]) as taps:
        plain.eval().score_boxes(images(), {}, proposals=True)
    assert taps.features["backbone"].shape[-2:] == (4, 6)


@pytest.mark.parametrize("kind", LIGHT)
@torch.no_grad()
def test_images_without_boxes_to_score(kind: str) -> None:
    detector = light(kind).eval()
    none, one = torch.zeros(0, 4), torch.tensor([[3.0, 4, 40, 50]])
    assert detector.score_boxes(images(), {"roi": [none, none]}).heads["roi"].logits.shape == (0, 3)
    found = detector.score_boxes(images(), {"roi": [none, one]}).heads["roi"]
    assert found.logits.shape == (1, 3) and found.deltas is not None and found.deltas.shape == (1, 3, 4)


@pytest.mark.parametrize("kind", ["fpn", "plain"])
def test_heads_are_float32_under_autocast(kind: str) -> None:
    detector = light(kind).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, trained = detector.losses_and_heads(images(), MIXED)
        boxes = {name: head.boxes for name, head in trained.heads.items()}
        with torch.no_grad():
            scored = detector.eval().score_boxes(images(), boxes, proposals=True)
    assert all(loss.isfinite() for loss in losses.values())
    for outputs in (trained, scored):
        assert outputs.proposals is not None and outputs.proposals[0].dtype == torch.float32
        for head in outputs.heads.values():
            assert head.logits.dtype == torch.float32
            assert head.deltas is not None and head.deltas.dtype == torch.float32


def test_recording_leaves_the_network_unchanged() -> None:
    detector = light("fpn").train()
    network = detector.network
    before = [(module, set(vars(module)), len(module._forward_hooks)) for module in network.modules()]
    sampler = network.rpn.fg_bg_sampler
    detector.losses_and_heads(images(), OBJECTS)
    with pytest.raises(AssertionError, match="positive height and width"):
        detector.losses_and_heads(images(), [target([[5.0, 5, 5, 5]])] * 2)
    assert network.rpn.fg_bg_sampler is sampler
    assert all(set(vars(module)) == names and len(module._forward_hooks) == n for module, names, n in before)


@torch.no_grad()
def test_bad_requests_are_refused() -> None:
    detector = light("fpn").eval()
    other = light("fpn", anchor_sizes=(16, 32, 64, 128, 256)).train()
    rpn = {"rpn": other.losses_and_heads(images(), OBJECTS)[1].heads["rpn"].boxes}
    with pytest.raises(
        EyasError, match=r"not the same ones: they differ by up to .* pixels; give both .* same anchors"
    ):
        detector.score_boxes(images(), rpn)
    with pytest.raises(EyasError, match=r"student scores 2 x 1536 boxes, the teacher's own anchors are 2 x 6138 boxes"):
        detector.score_boxes(torch.rand(2, 3, 128, 192), rpn)
    with pytest.raises(EyasError, match="FasterRCNN has no head anchors, it has rpn, roi"):
        detector.score_boxes(images(), {"anchors": rpn["rpn"]})
    with pytest.raises(EyasError, match="evaluation mode"):
        detector.train().score_boxes(images(), {})
    with pytest.raises(EyasError, match="training mode"):
        detector.eval().losses_and_heads(images(), OBJECTS)


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        ({"proposals_train": 50, "proposals_test": 30}, (50, 50), (30, 30)),  # as run folders without the two options
        ({"pre_nms_train": 70, "pre_nms_test": 60, "proposals_train": 50, "proposals_test": 30}, (70, 50), (60, 30)),
        ({}, (2000, 2000), (1000, 1000)),  # torchvision's
    ],
)
def test_anchors_before_and_proposals_after_nms(
    options: dict[str, int], train: tuple[int, int], test: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []
    original = rpn_module.box_ops.batched_nms

    def counted(boxes: Tensor, *rest: Any) -> Tensor:
        entered.append(len(boxes))
        return original(boxes, *rest)

    monkeypatch.setattr(rpn_module.box_ops, "batched_nms", counted)
    small = {"head_width": 8, "roi_samples": 4, "norm": "frozen", **options}
    rpn = build("faster_rcnn", CLASSES, backbone="mobilenet_v3_small_c4", options=small).network.rpn
    anchors = rpn.anchor_generator.num_anchors_per_location()[0] * 6 * 8
    maps = {"0": torch.rand(1, rpn.head.cls_logits.in_channels, 6, 8)}
    batch = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    for mode, (before, after) in (("train", train), ("eval", test)):
        entered.clear()
        getattr(rpn, mode)()
        (proposals,), _ = rpn(batch, maps, [{"boxes": torch.tensor([[4.0, 5, 40, 50]])}])
        assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (before, after)
        assert entered == [min(before, anchors)] and len(proposals) <= after
