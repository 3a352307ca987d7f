"""Localisation distillation: the loss by hand, its unit, the region around the positives by brute force."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor

from eyas.methods.ld import LD, confidence, localisation_loss
from eyas.ops.cells import CellLayout
from eyas.ops.valuable_region import scaled, valuable_region
from eyas.types import EyasError, HeadOutput, Target
from helpers.output_cases import head, matched, odds, probabilities, view

ONE = torch.ones(1)


def sides(*rows: tuple[float, ...]) -> Tensor:
    """(1, 4, bins) logits of the distributions of one box: left, top, right, bottom."""
    return probabilities(*rows)[None]


def test_one_side_by_hand() -> None:
    """Three sides agree. The mean is over four sides, and over the two bins."""
    even = (0.5, 0.5)
    student, teacher = sides(even, even, even, even), sides(even, (0.8, 0.2), even, even)
    expected = (0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5)) / 4 / 2
    assert float(localisation_loss(student, teacher, ONE, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(localisation_loss(student, teacher, 3 * ONE, 1.0)) == pytest.approx(3 * expected, rel=1e-5)


def test_temperature_by_hand() -> None:
    """Probabilities 0.8 and 0.2 have the odds 4; at T = 2 the odds are 2. The divergence is multiplied by T^2."""
    student, teacher = sides(*[(0.5, 0.5)] * 4), sides(*[(0.8, 0.2)] * 4)
    expected = 4 * (2 / 3 * log(2 / 3 / 0.5) + 1 / 3 * log(1 / 3 / 0.5)) / 2
    assert float(localisation_loss(student, teacher, ONE, 2.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bins", [16, 17])
def test_the_unit_in_float64(bins: int) -> None:
    """The sum over rows, the mean over sides and over all bins, of 16 as in YOLOv9 and 17 as in GFL."""
    student, teacher = torch.randn(2, 5, 4, bins, generator=torch.Generator().manual_seed(bins))
    weights = torch.rand(5)
    p, q = ((logits.double() / 10).exp() for logits in (teacher, student))
    p, q = p / p.sum(2, keepdim=True), q / q.sum(2, keepdim=True)
    expected = 100 * (weights.double()[:, None, None] * p * (p.log() - q.log())).sum() / (4 * bins)
    found = localisation_loss(student, teacher, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_equal_distributions_give_no_loss_and_no_gradient() -> None:
    teacher = torch.randn(3, 4, 16)
    student = (teacher + 2.5).requires_grad_()  # a constant changes no softmax
    loss = localisation_loss(student, teacher, torch.rand(3))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-4 and student.grad is not None and float(student.grad.abs().max()) < 1e-5


def test_confidence() -> None:
    assert confidence(head(odds((0.3, 0.9), (0.2, 0.1)), activation="sigmoid")).tolist() == pytest.approx([0.9, 0.2])
    rows = probabilities((0.7, 0.2, 0.1), (0.1, 0.3, 0.6))
    assert confidence(head(rows)).tolist() == pytest.approx([0.7, 0.6])
    assert confidence(head(rows, background=0)).tolist() == pytest.approx([0.2, 0.6])


EMPTY: list[Target] = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
OBJECT: list[Target] = [{"boxes": torch.tensor([[1.0, 1, 17, 13]]), "labels": torch.tensor([0])}]


def scored(seed: int, rows: list[int] | None = None, classes: int = 3, divisor: float = 4.0) -> HeadOutput:
    """The six cells, of 8 x 8 pixels, of an image of 16 x 24, with distributions over five bins.

    They are a student's where the positives are named.
    """
    values = torch.randn(6, classes + 20, generator=torch.Generator().manual_seed(seed))
    counted = None if rows is None else matched(list(range(6)), rows, divisor=divisor)
    output = head(values[:, :classes].clone(), None, counted, activation="sigmoid")
    cells = torch.tensor([(x, y, x + 8.0, y + 8.0) for y in (0.0, 8.0) for x in (0.0, 8.0, 16.0)])
    sides = values[:, classes:].reshape(6, 4, 5).clone().requires_grad_()
    return replace(output, boxes=[cells], layout=CellLayout(((2, 3),), (1,)), distributions=sides)


def test_the_loss_counts_positives_by_the_confidence_of_the_student() -> None:
    student, teacher = scored(0, [1, 4]), scored(1)
    assert student.distributions is not None and teacher.distributions is not None
    rows, method = [1, 4], LD(temperature=3.0)
    loss = method(view(anchors=student, roi=head(torch.zeros(6, 2))), view(anchors=teacher), EMPTY)
    expected = localisation_loss(
        student.distributions[rows], teacher.distributions[rows], student.logits[rows].sigmoid().amax(1), 3.0
    )
    torch.testing.assert_close(loss, expected / 4)
    loss.backward()
    assert teacher.distributions.grad is None and student.distributions.grad is not None
    assert student.distributions.grad.flatten(1).any(dim=1).tolist() == [row in rows for row in range(6)]


def test_the_region_beside_the_positives_counts_by_its_iou() -> None:
    student, teacher, method = scored(0, [1]), scored(1), LD(gamma=0.1, anchor_scale=2.0, region_weight=0.5)
    assert student.distributions is not None and teacher.distributions is not None
    region = valuable_region(scaled(student.boxes[0], 2.0), [6], OBJECT[0]["boxes"], 0.1)
    assert bool(region[0] > 0) and int(region.count_nonzero()) in range(2, 6)
    weights = 0.5 * region
    weights[1] = student.logits[1].sigmoid().amax()
    loss = method(view(a=student), view(a=teacher), OBJECT)
    torch.testing.assert_close(loss, localisation_loss(student.distributions, teacher.distributions, weights) / 4)
    without = LD(region_weight=0.0)
    nothing = method(view(a=student), view(a=teacher), EMPTY)
    torch.testing.assert_close(without(view(a=student), view(a=teacher), OBJECT), nothing)
    assert float(nothing.detach()) < float(loss.detach())


def test_a_positive_in_the_region_counts_once() -> None:
    """By its confidence, not by its IoU as well."""
    student, teacher = scored(0, [0]), scored(1)
    method = LD(gamma=0.1, anchor_scale=2.0)
    assert bool(method.region(student, OBJECT)[0] > 0)
    with_region = method(view(a=student), view(a=teacher), OBJECT)
    others = method(view(a=scored(0, [], divisor=1.0)), view(a=teacher), OBJECT)
    assert student.distributions is not None and teacher.distributions is not None
    region = 0.25 * method.region(student, OBJECT)[:1]
    own, other = student.distributions[:1], teacher.distributions[:1]
    change = localisation_loss(own, other, confidence(student)[:1]) - localisation_loss(own, other, region)
    torch.testing.assert_close(with_region, others / 4 + change / 4)


def test_the_class_term_is_a_mean_over_classes_and_positives() -> None:
    student, teacher = scored(0, [1, 4]), scored(1)
    plain, with_classes = (LD(class_weight=weight)(view(a=student), view(a=teacher), EMPTY) for weight in (0.0, 0.5))
    p, q = ((output.logits[[1, 4]].double() / 2).softmax(1) for output in (teacher, student))
    expected = 4 * (p * (p.log() - q.log())).mean()
    torch.testing.assert_close((with_classes - plain).double(), 0.5 * expected, rtol=1e-4, atol=0)
    with pytest.raises(EyasError, match="the softmax over one class says nothing"):
        LD(class_weight=1.0)(view(a=scored(0, [1], classes=1)), view(a=scored(1, classes=1)), EMPTY)


def test_without_positives_it_is_zero_with_a_gradient() -> None:
    student = scored(0, [], divisor=0.0)
    assert student.distributions is not None
    loss = LD(class_weight=1.0)(view(a=student), view(a=scored(1)), EMPTY)
    loss.backward()
    assert float(loss.detach()) == 0 and student.distributions.grad is not None
    assert not student.distributions.grad.any()


def test_what_is_refused() -> None:
    other = scored(1)
    with pytest.raises(EyasError, match="no head of the student has distributions of box sides; take a student"):
        LD()(view(a=head(torch.zeros(2, 3))), view(a=head(torch.zeros(2, 3))), [])
    with pytest.raises(EyasError, match="head a has no distributions of box sides"):
        LD(heads=["a"])(
            view(a=replace(scored(0, [1]), distributions=None)), view(a=replace(other, distributions=None)), []
        )
    with pytest.raises(
        EyasError, match=r"head a: student and teacher differ in distributions, \(6, 4, 5\) against None"
    ):
        LD()(view(a=scored(0, [1])), view(a=replace(other, distributions=None)), [])
    with pytest.raises(EyasError, match="the head does not say which row is which cell; set region_weight to 0"):
        LD()(view(a=replace(scored(0, [1]), layout=None)), view(a=other), EMPTY)


@pytest.mark.parametrize(
    "option", ["temperature", "class_temperature", "anchor_scale", "class_weight", "region_weight"]
)
def test_options_out_of_range_are_refused(option: str) -> None:
    with pytest.raises(EyasError, match=f"LD: {option}"):
        LD(**{option: -1.0})  # type: ignore[arg-type]
    with pytest.raises(EyasError, match=r"LD: gamma must lie in \[0, 1\), got 1"):
        LD(gamma=1.0)
