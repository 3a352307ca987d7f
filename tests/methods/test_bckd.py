"""BCKD against values by hand, float64, and heads of real detectors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from eyas.detectors import build
from eyas.distillation.distiller import Distiller
from eyas.methods import BCKD, Vanilla
from eyas.methods.outputs import binary_logits
from eyas.types import EyasError, HeadOutput, Target
from helpers.output_cases import decoded, head, matched, odds, view


def pair(student: HeadOutput, teacher: HeadOutput, **options: Any) -> Tensor:
    return BCKD(1.0, **options)(view(anchors=student), view(anchors=teacher), [])


def test_a_row_by_hand() -> None:
    """Classes at 1/2 and 1/4 against 3/4 and 1/4; boxes of side 1, half a side apart."""
    counted = matched([0], [0], divisor=2.0)
    own, shifted = torch.zeros(1, 1, 4), torch.tensor([[[0.5, 0, 0, 0]]])
    student = head(odds((1 / 2, 1 / 4)), own, counted, activation="sigmoid")
    teacher = head(odds((3 / 4, 1 / 4)), shifted, activation="sigmoid")
    classes, boxes = math.log(2) / 4, (1 - 1 / 3) / 4
    torch.testing.assert_close(pair(student, teacher), torch.tensor((classes + 4 * boxes) / 2))
    torch.testing.assert_close(pair(student, teacher, box_weight=0.0), torch.tensor(classes / 2))
    torch.testing.assert_close(pair(student, teacher, class_weight=0.0, box_weight=1.0), torch.tensor(boxes / 2))
    torch.testing.assert_close(pair(student, teacher, beta=2.0, box_weight=0.0), torch.tensor(classes / 8))


def test_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    z, deltas = (torch.randn(2, 30, *shape, generator=generator) for shape in ((3,), (1, 4)))
    rows = [0, 3, 4, 9, 20, 29]
    counted = matched(rows, [3, 9], divisor=2.0)
    student, teacher = (head(3 * z[i], deltas[i], counted, activation="sigmoid") for i in (0, 1))
    p, q = (3 * z.double()[:, rows]).sigmoid()
    classes = (-(q * p.log() + (1 - q) * (1 - p).log()) * (q - p).abs()).sum()
    own, theirs = (decoded(deltas.double()[i, rows, 0], p) for i in (0, 1))
    real = (theirs[:, 2:] - theirs[:, :2]).amin(1) >= 1
    assert 0 < int(real.sum()) < len(rows)
    boxes = ((q - p).abs().amax(1) * real * generalized_box_iou_loss(own, theirs)).sum()
    torch.testing.assert_close(pair(student, teacher).double(), (classes + 4 * boxes) / 2, rtol=1e-5, atol=0.0)


def test_equal_outputs_have_no_loss_and_no_gradient() -> None:
    logits, deltas = torch.randn(5, 2, requires_grad=True), torch.randn(5, 1, 4, requires_grad=True)
    student = head(logits, deltas, matched([0, 1, 4], [1]), activation="sigmoid")
    loss = pair(student, replace(student, matched=None))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None and deltas.grad is not None and not logits.grad.any() and not deltas.grad.any()


def test_gradients_reach_the_student_alone_and_the_weight_of_a_box_has_none() -> None:
    student, teacher = ([torch.randn(4, 2, requires_grad=True), torch.rand(4, 1, 4, requires_grad=True)] for _ in "st")
    counted = matched([0, 2], [2])
    heads = [head(logits, deltas, counted, activation="sigmoid") for logits, deltas in (student, teacher)]
    pair(heads[0], heads[1], class_weight=0.0).backward()
    assert all(tensor.grad is None for tensor in teacher)
    assert student[0].grad is None or not student[0].grad.any()
    assert student[1].grad is not None
    assert student[1].grad[[0, 2]].any(dim=2).all() and not student[1].grad[[1, 3]].any()


def test_nothing_counted_is_a_zero_with_a_gradient_path() -> None:
    logits, deltas = torch.randn(4, 2, requires_grad=True), torch.randn(4, 1, 4, requires_grad=True)
    loss = pair(
        head(logits, deltas, matched([], [], divisor=0.0), activation="sigmoid"),
        head(logits, deltas, activation="sigmoid"),
    )
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and deltas.grad is not None


def test_boxes_are_compared_whatever_their_coding() -> None:
    """The teacher's deltas are half as large, and mean twice as much."""
    logits, deltas = torch.randn(2, 4, 1), torch.randn(4, 1, 4)
    student = head(logits[0], deltas, matched([0, 1, 2, 3], []), activation="sigmoid")
    teacher = head(logits[1], deltas / 2, activation="sigmoid", coding=("half",))
    teacher = replace(teacher, decoder=lambda half, boxes: decoded(2 * half, boxes))
    torch.testing.assert_close(pair(student, teacher), pair(student, teacher, box_weight=0.0))
    with pytest.raises(EyasError, match="differ in box coding"):
        Vanilla(1.0)(view(anchors=student), view(anchors=teacher), [])


def test_a_softmax_gives_log_odds_without_the_background() -> None:
    logits = torch.tensor([[0.2, 1.3, -4.0], [60.0, -60.0, 0.0], [0.0, 200.0, 0.0]])
    p = logits.double().softmax(1)
    for background in (None, 0, 2):
        kept = [column for column in range(3) if column != background]
        found = binary_logits(logits, "softmax", background)
        torch.testing.assert_close(found.sigmoid().double(), p[:, kept], rtol=1e-5, atol=1e-6)
        assert bool(found.isfinite().all())
    torch.testing.assert_close(binary_logits(logits, "sigmoid", None), logits)
    # One class alone is never unsure.
    one = torch.randn(3, 1, requires_grad=True)
    loss = pair(head(one, counted=matched([0, 1, 2], [])), head(torch.zeros(3, 1)))
    loss.backward()
    assert float(loss.detach()) == 0 and one.grad is not None and not one.grad.any()


def test_where_a_head_has_a_box_for_each_class_the_trained_ones_are_compared() -> None:
    deltas = torch.zeros(3, 2, 4)
    student = head(odds((1 / 2,)).expand(3, 1), deltas, matched([0, 1, 2], [1], slots=[1]), activation="sigmoid")
    other = deltas.clone()
    other[1, 1, 0] = 0.5
    other[2, :, 0] = 9.0  # a row that is no object
    other[1, 0, 0] = 9.0  # another class
    teacher = head(odds((3 / 4,)).expand(3, 1), other, activation="sigmoid")
    torch.testing.assert_close(pair(student, teacher, class_weight=0.0), torch.tensor(4 * (1 - 1 / 3) / 4))


@pytest.mark.parametrize("options", [{"class_weight": -1.0}, {"box_weight": -1.0}, {"beta": 0.5}, {"heads": []}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EyasError, match=f"BCKD: {next(iter(options))}"):
        BCKD(1.0, **options)


EMPTY: list[Target] = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
ONE: list[Target] = [{"boxes": torch.tensor([[4.0, 5, 40, 50]]), "labels": torch.tensor([1])}]
DETECTORS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "retinanet": ("mobilenet_v3_small", {"fpn_channels": 16, "head_convs": 1}),
    "fcos": ("mobilenet_v3_small", {"fpn_channels": 64, "head_convs": 1}),
    "ssd": ("mobilenet_v3_small", {"extra_channels": 16}),
    "faster_rcnn": ("mobilenet_v3_small_fpn", {"fpn_channels": 16, "head_width": 32, "proposals_train": 50}),
    "shuffledet": (None, {"width": 0.25, "stem_channels": 8}),
}


@pytest.mark.parametrize("family", DETECTORS)
def test_every_family_learns_from_a_teacher_of_its_kind(family: str) -> None:
    backbone, options = DETECTORS[family]
    student, teacher = (build(family, ("cat", "dog"), backbone=backbone, options=options) for _ in range(2))
    distiller = Distiller(student, teacher, BCKD(1.0))
    for targets in (ONE, EMPTY, ONE + EMPTY):
        images = torch.rand(len(targets), 3, 64, 96)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = distiller(images, targets)["bckd"]
        assert bool(loss.isfinite()) and loss.dtype == torch.float32
        distiller.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in student.network.parameters() if parameter.grad is not None]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert targets is EMPTY or any(bool(gradient.any()) for gradient in gradients)
