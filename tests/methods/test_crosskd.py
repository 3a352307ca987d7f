"""CrossKD against its equations written out on torchvision's modules, and its limiting cases."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from eyas.detectors import TorchvisionDetector, build
from eyas.distillation.distiller import Distiller
from eyas.methods import BCKD, PKD, CrossKD, Method
from eyas.methods.crosskd import rescaled
from eyas.types import BranchesAt, BranchMaps, EyasError, HeadOutput, Target, View
from helpers.output_cases import head, matched, odds, view

POSITION = BranchesAt(1)


def light(family: str, seed: int = 0, **options: Any) -> TorchvisionDetector:
    torch.manual_seed(seed)
    defaults = {"retinanet": {"fpn_channels": 16, "head_convs": 2}, "fcos": {"fpn_channels": 64, "head_convs": 2}}
    given = {"norm": "frozen", **defaults.get(family, {}), **options}
    detector = build(family, ("cat", "dog"), backbone="mobilenet_v3_small", options=given)
    assert isinstance(detector, TorchvisionDetector)
    for layer in detector.network.head.modules():
        if isinstance(layer, nn.Conv2d):  # initial maps hardly differ from 0
            nn.init.normal_(layer.weight, std=0.1)
    return detector


def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def targets() -> list[Target]:
    first: Target = {"boxes": torch.tensor([[4.0, 5, 40, 50], [50, 10, 90, 60]]), "labels": torch.tensor([1, 0])}
    return [first, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]


def with_branches(output: HeadOutput, logits: HeadOutput) -> View:
    """A view whose branches predict what ``logits`` has, whatever the maps are."""
    maps = [torch.randn(2, 3, 2, 2)]
    branches = {
        "anchors.logits": BranchMaps(maps, lambda _: logits.logits),
        "anchors.deltas": BranchMaps(maps, lambda _: logits.deltas if logits.deltas is not None else torch.zeros(0)),
    }
    return replace(view(anchors=output), branches={POSITION: branches})


def test_a_row_by_hand() -> None:
    """What the student's map gives in the teacher's head: 1/2 against 3/4, and a box half a side apart."""
    own, shifted = torch.zeros(1, 1, 4), torch.tensor([[[0.5, 0, 0, 0]]])
    student = head(odds((0.1, 0.2)), own, matched([0], [], divisor=2.0), activation="sigmoid")
    teacher = head(odds((3 / 4, 1 / 4)), shifted, activation="sigmoid")
    crossed = head(odds((1 / 2, 1 / 4)), own, activation="sigmoid")
    views = with_branches(student, student), with_branches(teacher, crossed)
    classes, boxes = math.log(2) / 4, 3 / 4 * (1 - 1 / 3)
    for options, expected in (({}, classes + boxes), ({"box_weight": 0.0}, classes), ({"class_weight": 0.0}, boxes)):
        loss = CrossKD(1.0, position=1, **options)(*views, [])
        torch.testing.assert_close(loss, torch.tensor(expected / 2))
    apart = torch.tensor([[[2.0, 0, 0, 0]]])
    views = with_branches(student, student), with_branches(replace(teacher, deltas=apart), crossed)
    for name, expected in (("giou", 3 / 4 * (1 + 1 / 3)), ("iou", 3 / 4)):
        loss = CrossKD(1.0, position=1, class_weight=0.0, box_loss=name)(*views, [])
        torch.testing.assert_close(loss, torch.tensor(expected / 2))


def test_rescaled_maps_have_the_teachers_statistics() -> None:
    student, teacher = 5 * torch.randn(3, 4, 5, 6) + 2, torch.randn(3, 4, 5, 6) * torch.arange(1.0, 5)[:, None, None]
    found = rescaled(student, teacher)
    torch.testing.assert_close(found.mean((0, 2, 3)), teacher.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.std((0, 2, 3)), teacher.std((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rescaled(teacher, teacher), teacher, atol=1e-5, rtol=1e-4)
    for odd in (torch.full((2, 4, 3, 3), 7.0), torch.randn(1, 4, 1, 1)):  # a constant map and a single cell
        odd = odd.requires_grad_()
        moved = rescaled(odd, teacher)
        moved.square().sum().backward()
        assert odd.grad is not None and bool(odd.grad.isfinite().all()) and bool(moved.isfinite().all())


def at_position(convs: nn.Sequential, position: int, entering: Tensor) -> Tensor:
    return entering if position == 0 else convs[position - 1][0](convs[: position - 1](entering))


@pytest.mark.parametrize(
    ("method", "depths", "positions"),
    [
        (CrossKD(1.0, position=1), (2, 2), (1, 1)),
        (CrossKD(1.0), (2, 2), (1, 1)),
        (CrossKD(1.0), (1, 3), (0, 2)),
    ],
)
def test_the_equations_on_torchvisions_own_modules(
    method: CrossKD, depths: tuple[int, int], positions: tuple[int, int]
) -> None:
    student, teacher = (light("retinanet", 1 + i, head_convs=depth) for i, depth in enumerate(depths))
    teacher.eval()
    distiller = Distiller(student, teacher, method)
    loss = distiller(images(), targets())["crosskd"]
    outputs = student.losses_and_heads(images(), targets())[1].heads["anchors"]
    net, other = student.network, teacher.network
    batch = net.transform(images())[0].tensors
    predicted: dict[str, list[Tensor]] = {"logits": [], "deltas": []}
    for own, theirs in zip(net.backbone(batch).values(), other.backbone(batch).values(), strict=True):
        for name, half, last in (
            ("logits", "classification_head", "cls_logits"),
            ("deltas", "regression_head", "bbox_reg"),
        ):
            convs = getattr(other.head, half).conv
            mine = at_position(getattr(net.head, half).conv, positions[0], own)
            target = at_position(convs, positions[1], theirs)
            dims = (0, 2, 3)
            shift, scale = target.mean(dims, keepdim=True), target.std(dims, keepdim=True)
            mine = (mine - mine.mean(dims, keepdim=True)) / (mine.std(dims, keepdim=True) + 1e-6) * scale + shift
            out = getattr(getattr(other.head, half), last)(convs[positions[1] :](mine.relu()))
            columns = 2 if name == "logits" else 4
            predicted[name].append(out.permute(0, 2, 3, 1).reshape(len(out), -1, columns))
    z, codes = (torch.cat(predicted[name], 1).flatten(0, 1) for name in ("logits", "deltas"))
    scored = teacher.score_boxes(images(), {"anchors": outputs.boxes}).heads["anchors"]
    matched = outputs.matched
    assert matched is not None and scored.deltas is not None and len(matched.positives) > 0
    q, p = scored.logits.sigmoid(), z.sigmoid()
    classes = (-(q * p.log() + (1 - q) * (1 - p).log()) * (q - p).abs()).sum(1)
    anchors = torch.cat(list(outputs.boxes))
    boxes = [net.box_coder.decode_single(found, anchors) for found in (codes, scored.deltas[:, 0])]
    rows = classes + q.amax(1) * generalized_box_iou_loss(boxes[0], boxes[1])
    torch.testing.assert_close(loss, rows[matched.rows].sum() / matched.divisor, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(family: str, position: int) -> None:
    teacher = light(family)
    same, other = (
        Distiller(own, teacher, CrossKD(1.0, position=position)) for own in (copy.deepcopy(teacher), light(family, 3))
    )
    losses = [float(distiller(images(), targets())["crosskd"].detach()) for distiller in (same, other)]
    assert losses[0] < losses[1] / 20
    # The gradient of the classes is 0, too. With an exponent of 1 it jumps where outputs are equal, and so does that of
    # an overlap.
    norms = []
    for distiller in (same, other):
        classes = Distiller(distiller.student, teacher, CrossKD(1.0, position=position, box_weight=0.0, beta=2.0))
        classes(images(), targets())["crosskd"].backward()
        norms.append(max(float(p.grad.norm()) for p in classes.student.parameters() if p.grad is not None))
    assert norms[0] < norms[1] / 5


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_gradients_reach_the_students_own_convolutions_alone(family: str) -> None:
    student, teacher = light(family, 1), light(family, 2)
    distiller = Distiller(student, teacher, CrossKD(1.0, position=1))
    distiller(images(), targets())["crosskd"].backward()
    touched = {name for name, parameter in student.network.named_parameters() if parameter.grad is not None}
    heads = {name for name in touched if name.startswith("head.")}
    layers = {name.rsplit(".", 1)[0] for name in heads}
    halves = ("head.classification_head", "head.regression_head")
    first = (
        {f"{half}.conv.0.0" for half in halves}
        if family == "retinanet"
        else {f"{half}.conv.{i}" for half in halves for i in (0, 1)}
    )
    assert layers == first
    assert any(name.startswith("backbone.") for name in touched)
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_beside_pkd_under_autocast_on_images_without_objects() -> None:
    distiller = Distiller(light("fcos", 1), light("fcos", 2), CrossKD(1.0, position=2, class_weight=0.4), PKD(1.0))
    empty: list[Target] = [targets()[1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distiller(images()[:1], empty)
    torch.stack(list(losses.values())).sum().backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    gradients = [p.grad for p in distiller.student.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_what_does_not_fit_is_refused() -> None:
    batch = images(), targets()
    with pytest.raises(EyasError, match="the student, a SSD, has no head that can be entered"):
        Distiller(light("ssd"), light("ssd", 1), CrossKD(1.0))(*batch)
    with pytest.raises(EyasError, match="2 convolutions, so it cannot be cut at position 3; choose one from 0 to 2"):
        Distiller(light("retinanet"), light("retinanet", 1), CrossKD(1.0, position=3))(*batch)
    with pytest.raises(EyasError, match=r"head anchors: a map of the student has 24 channels, .* takes 16 there"):
        Distiller(light("retinanet", fpn_channels=24), light("retinanet", 1), CrossKD(1.0, position=1))(*batch)
    with pytest.raises(EyasError, match="head centerness cannot be entered"):
        Distiller(light("fcos"), light("fcos", 1), CrossKD(1.0, position=1, heads=["centerness"]))(*batch)
    with pytest.raises(EyasError, match="crosskd compares branches, heads, which belong to one size"):
        Distiller(light("fcos"), light("fcos", 1), CrossKD(1.0, position=1), teacher_scale=2.0)
    for options in ({"class_weight": -1.0}, {"box_weight": -1.0}, {"beta": 0.5}, {"box_loss": "l1"}):
        with pytest.raises(EyasError, match=f"CrossKD: {next(iter(options))}"):
            CrossKD(1.0, **options)  # type: ignore[arg-type]


def test_two_positions_and_another_method_share_one_pass() -> None:
    student, teacher = light("retinanet", 1), light("retinanet", 2)

    def methods() -> list[Method]:
        return [CrossKD(1.0, position=1), CrossKD(1.0, position=2, name="second"), BCKD(1.0)]

    together = Distiller(student, teacher, *methods())(images(), targets())
    for method in methods():
        alone = Distiller(student, teacher, method)(images(), targets())
        torch.testing.assert_close(alone[method.name], together[method.name])
