"""DETRDistill and D3ETR: the loss of matched queries, and of the teacher's queries put to the student."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from eyas import D3ETR, DETRDistill
from eyas.methods.queries import Factors, row_losses
from eyas.types import EyasError, QueryOutput
from helpers.query_cases import IMAGE, GivenDecoder, query_view, random_output, trained

FACTORS = Factors()


def picked(output: QueryOutput, layer: int, image: int, rows: list[int] | tuple[int, ...]) -> QueryOutput:
    layers, images = slice(layer, layer + 1), slice(image, image + 1)
    return replace(
        output, logits=output.logits[layers, images][:, :, rows], boxes=output.boxes[layers, images][:, :, rows]
    )


def least(student: QueryOutput, teacher: QueryOutput, layer: int, image: int) -> float:
    """The smallest sum of losses of any matching."""
    own = picked(student, layer, image, range(4))  # type: ignore[arg-type]
    return min(
        float(row_losses(own, picked(teacher, layer, image, order), IMAGE, FACTORS).sum())
        for order in permutations(range(4))
    )


def test_the_loss_is_the_least_of_any_matching() -> None:
    """Mean over eight queries, sum over two layers; cost and loss are the same function."""
    student, teacher = random_output(1, queries=4), random_output(2, queries=4)
    sums = [[least(student, teacher, layer, image) for image in (0, 1)] for layer in (0, 1)]
    method = DETRDistill()
    loss = method(query_view(GivenDecoder(student)), query_view(GivenDecoder(teacher)), [])
    assert float(loss) == pytest.approx(sum(map(sum, sums)) / 8, rel=1e-5)
    assert [float(part) for part in method.parts.values()] == pytest.approx(
        [sum(layer) / 8 for layer in sums], rel=1e-5
    )


def test_a_published_constant_by_hand() -> None:
    """One class, one query; logits 0 and 0; the boxes a tenth of the image apart, without overlap: 1, 5 and 2."""
    student = QueryOutput(torch.zeros(1, 1, 1, 1), torch.tensor([0.0, 0, 10, 10]).view(1, 1, 1, 4), ("cat",))
    teacher = replace(student, boxes=torch.tensor([10.0, 0, 20, 10]).view(1, 1, 1, 4))
    loss = DETRDistill()(query_view(GivenDecoder(student)), query_view(GivenDecoder(teacher)), [])
    assert float(loss) == pytest.approx(0.6931472 + 5 * 0.1 + 2)


def test_equal_answers_have_no_gradient() -> None:
    """The loss is the teacher's entropy then; and the order of its queries does not matter."""
    student = trained(random_output(1))
    order = torch.tensor([4, 2, 0, 1, 3])
    teacher = replace(student, logits=student.logits.detach()[:, :, order], boxes=student.boxes.detach()[:, :, order])
    DETRDistill()(query_view(GivenDecoder(student)), query_view(GivenDecoder(teacher)), []).backward()
    assert student.logits.grad is not None and student.logits.grad.abs().max() < 1e-7
    assert student.boxes.grad is not None and student.boxes.grad[..., 2:].isfinite().all()
    moved = trained(random_output(3))
    loss = DETRDistill()(query_view(GivenDecoder(moved)), query_view(GivenDecoder(teacher)), [])
    again = DETRDistill()(query_view(GivenDecoder(moved)), query_view(GivenDecoder(student)), [])
    torch.testing.assert_close(loss, again)
    loss.backward()
    assert moved.logits.grad is not None and moved.logits.grad.abs().sum(-1).all()


def test_d3etr_adds_the_teachers_queries_one_by_one() -> None:
    student, teacher, answers = (random_output(seed) for seed in (1, 2, 3))
    learning = GivenDecoder(student, to_points=answers)
    loss = D3ETR()(query_view(learning), query_view(GivenDecoder(teacher)), [])
    adaptive = DETRDistill()(query_view(learning), query_view(GivenDecoder(teacher)), [])
    fixed = row_losses(answers, teacher, IMAGE, FACTORS).mean((1, 2)).sum()
    torch.testing.assert_close(loss, adaptive + fixed)
    assert len(learning.asked) == 1


def test_what_cannot_be_compared_is_refused() -> None:
    given, nothing = query_view(GivenDecoder(random_output(1))), query_view(None)
    with pytest.raises(EyasError, match="the student has no queries to compare"):
        DETRDistill()(nothing, given, [])
    with pytest.raises(EyasError, match="the teacher has no queries to compare"):
        DETRDistill()(given, nothing, [])
    with pytest.raises(EyasError, match="DETRDistill: the weights of classes, boxes and overlaps cannot be negative"):
        DETRDistill(giou_weight=-1.0)
    assert DETRDistill().describe(given, []) == "5 queries of the teacher, in 2 layers of its decoder"
    with pytest.raises(EyasError, match="more of the teacher than feature vectors"):
        DETRDistill().fingerprint()
