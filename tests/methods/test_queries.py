"""The parts of the methods on queries: aligned answers, the terms of a row, and the cost of a pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from eyas.methods.queries import (
    Factors,
    align,
    class_probabilities,
    matched,
    matching_cost,
    mean_over_queries,
    row_losses,
    soft_cross_entropy,
)
from eyas.types import EyasError
from helpers.query_cases import IMAGE, random_output

FACTORS = Factors(1.5, 5.0, 2.0)


@pytest.mark.parametrize(
    ("depth", "deeper", "layers"),
    [
        (2, 2, [0, 1]),
        (3, 6, [1, 3, 5]),
        (4, 6, [1, 2, 4, 5]),
        (6, 3, [0, 0, 1, 1, 2, 2]),
        (3, 1, [0, 0, 0]),
        (1, 6, [5]),
    ],
)
def test_layers_are_paired_by_their_share_of_the_depth(depth: int, deeper: int, layers: list[int]) -> None:
    student, teacher = random_output(1, depth), random_output(2, deeper)
    own, other = align(student, teacher)
    assert own.logits.equal(student.logits)
    assert other.logits.equal(teacher.logits[layers]) and other.boxes.equal(teacher.boxes[layers])


def test_columns_are_those_of_common_names() -> None:
    student = random_output(1)
    teacher = replace(random_output(2), classes=("owl", "fox", "cat"))
    own, other = align(student, teacher)
    assert own.classes == other.classes == ("cat", "owl")
    assert own.logits.equal(student.logits[..., [0, 2]]) and other.logits.equal(teacher.logits[..., [2, 0]])


def test_columns_of_a_softmax_may_only_change_their_order() -> None:
    student = random_output(1, background=True)
    teacher = replace(random_output(2, background=True), classes=("owl", "cat", "dog"))
    own, other = align(student, teacher)
    assert own.logits.equal(student.logits) and other.logits.equal(teacher.logits[..., [1, 2, 0, 3]])
    with pytest.raises(EyasError, match="must have the same classes in their softmaxes; the student has cat, dog, owl"):
        align(student, replace(teacher, classes=("owl", "cat", "fox")))


def test_scores_of_different_meaning_are_refused() -> None:
    with pytest.raises(EyasError, match="the student's queries have a sigmoid for each class, the teacher's a softmax"):
        align(random_output(1), random_output(2, background=True))
    with pytest.raises(EyasError, match="student and teacher share no class name"):
        align(random_output(1), replace(random_output(2), classes=("a", "b", "c")))


def test_terms_of_a_row_by_hand() -> None:
    """One query: logits 0 against a certain class, and a box that is shifted by its own width."""
    student, teacher = (random_output(seed, 1, 1, 1) for seed in (1, 2))
    student = replace(student, logits=torch.zeros(1, 1, 1, 3), boxes=torch.tensor([0.0, 0, 10, 10]).view(1, 1, 1, 4))
    teacher = replace(
        teacher,
        logits=torch.tensor([40.0, -40, -40]).view(1, 1, 1, 3),
        boxes=torch.tensor([10.0, 0, 20, 10]).view(1, 1, 1, 4),
    )
    # 3 log 2 for the classes; a tenth of the width; GIoU 0
    expected = 1.5 * 3 * 0.6931472 + 5 * 10 / 100 + 2 * 1
    assert row_losses(student, teacher, IMAGE, FACTORS).item() == pytest.approx(expected)


@pytest.mark.parametrize("background", [False, True])
def test_terms_in_double_precision(background: bool) -> None:
    student, teacher = (random_output(seed, background=background) for seed in (1, 2))
    s, t = student.logits.double(), teacher.logits.double()
    p, q = (s.softmax(-1), t.softmax(-1)) if background else (s.sigmoid(), t.sigmoid())
    classes = -(q * p.log()).sum(-1) if background else -(q * p.log() + (1 - q) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(
        soft_cross_entropy(student.logits, teacher.logits, background).double(), classes, rtol=1e-5, atol=1e-6
    )
    a, b = (box_convert(o.boxes.double(), "xyxy", "cxcywh") / torch.tensor([100, 50] * 2) for o in (student, teacher))
    overlap = [
        generalized_box_iou(one, other).diagonal()
        for one, other in zip(student.boxes.double().flatten(0, 1), teacher.boxes.double().flatten(0, 1), strict=True)
    ]
    expected = 1.5 * classes + 5 * (a - b).abs().sum(-1) + 2 * (1 - torch.stack(overlap).view(2, 2, 5))
    torch.testing.assert_close(row_losses(student, teacher, IMAGE, FACTORS).double(), expected, rtol=1e-5, atol=1e-6)
    wanted = q[..., :-1] if background else q
    torch.testing.assert_close(class_probabilities(teacher.logits, background).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("background", [False, True])
def test_the_cost_of_a_pair_is_its_loss(background: bool) -> None:
    student = random_output(1, background=background)
    teacher = random_output(2, queries=4, background=background)
    cost = matching_cost(student, teacher, IMAGE, FACTORS)
    assert cost.shape == (2, 2, 5, 4)
    for row in range(5):
        for column in range(4):
            one = replace(student, logits=student.logits[:, :, [row]], boxes=student.boxes[:, :, [row]])
            other = replace(teacher, logits=teacher.logits[:, :, [column]], boxes=teacher.boxes[:, :, [column]])
            torch.testing.assert_close(row_losses(one, other, IMAGE, FACTORS)[..., 0], cost[:, :, row, column])


def test_the_matching_undoes_a_permutation() -> None:
    student = random_output(1)
    order = torch.tensor([3, 0, 4, 2, 1])
    teacher = replace(student, logits=student.logits[:, :, order], boxes=student.boxes[:, :, order])
    own, other = matched(student, teacher, IMAGE, FACTORS)
    assert own.logits.equal(other.logits) and own.boxes.equal(other.boxes)
    fewer = replace(teacher, logits=teacher.logits[:, :, :3], boxes=teacher.boxes[:, :, :3])
    own, other = matched(student, fewer, IMAGE, FACTORS)
    assert own.logits.equal(other.logits) and own.boxes.shape == (2, 2, 3, 4)


def test_a_pair_is_matched_in_full_precision_under_autocast() -> None:
    student, teacher = random_output(1, scale=20.0), random_output(2, scale=20.0)
    expected = matching_cost(student, teacher, IMAGE, FACTORS)
    with torch.autocast("cpu", torch.bfloat16):
        assert matching_cost(student, teacher, IMAGE, FACTORS).equal(expected)


def test_extreme_logits_are_finite() -> None:
    for background in (False, True):
        student = random_output(1, scale=1e4, background=background)
        teacher = random_output(2, scale=1e4, background=background)
        assert row_losses(student, teacher, IMAGE, FACTORS).isfinite().all()
        assert matching_cost(student, teacher, IMAGE, FACTORS).isfinite().all()


def test_the_mean_is_over_queries_and_images() -> None:
    rows = torch.arange(12.0).view(2, 2, 3)
    assert mean_over_queries(rows).tolist() == [2.5, 8.5]
