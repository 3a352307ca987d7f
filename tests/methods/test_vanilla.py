"""Vanilla distillation of outputs: divergences by hand, where they are 0, and the effect of the temperature."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eyas.methods.vanilla import Vanilla, kl_sigmoid, kl_softmax, squared_difference
from eyas.types import EyasError
from helpers.output_cases import TwoHeads, head, matched, odds, probabilities, view


def test_softmax_by_hand() -> None:
    student, teacher = probabilities((0.5, 0.25, 0.25)), probabilities((0.8, 0.1, 0.1))
    expected = 0.8 * log(0.8 / 0.5) + 2 * 0.1 * log(0.1 / 0.25)
    assert float(kl_softmax(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_sigmoid_by_hand() -> None:
    """Two columns, each a separate binary output."""
    student, teacher = odds((0.3, 0.5)), odds((0.9, 0.2))
    first = 0.9 * log(0.9 / 0.3) + 0.1 * log(0.1 / 0.7)
    second = 0.2 * log(0.2 / 0.5) + 0.8 * log(0.8 / 0.5)
    assert float(kl_sigmoid(student, teacher)) == pytest.approx(first + second, rel=1e-5)


def test_temperature_by_hand() -> None:
    """Probabilities 0.8 and 0.2 have the odds 4; at T = 2 the odds are 2, the probabilities 2/3 and 1/3."""
    student, teacher = probabilities((0.5, 0.5)), probabilities((0.8, 0.2))
    expected = 4 * (2 / 3 * log(2 / 3 / 0.5) + 1 / 3 * log(1 / 3 / 0.5))
    assert float(kl_softmax(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(kl_sigmoid(odds((0.5,)), odds((0.8,)), 2.0)) == pytest.approx(expected, rel=1e-5)


def test_at_a_high_temperature_it_is_half_the_squared_difference_of_centred_logits() -> None:
    """Hinton et al., section 2.1: the gradient tends to that of (1/2C) |z_s - z_t|^2."""
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    difference = student - teacher
    difference = difference - difference.mean(dim=1, keepdim=True)
    expected = difference.square().sum() / (2 * 4)
    torch.testing.assert_close(kl_softmax(student.double(), teacher, 50.0), expected, rtol=0.1, atol=0.0)


def test_boxes_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0, 0, 2], [0, 0, 3, 0]]), torch.tensor([[0.0, 0, 1, 0], [0, 0, 3, 0]])
    assert float(squared_difference(student, teacher)) == 1 + 1 + 4


LOGIT = st.floats(-6, 6, width=32)
TRIPLE = st.tuples(LOGIT, LOGIT, LOGIT)


@given(TRIPLE, TRIPLE, st.sampled_from((0.5, 1.0, 4.0)))
def test_softmax_is_zero_if_and_only_if_the_logits_differ_by_a_constant(
    one: tuple[float, ...], other: tuple[float, ...], temperature: float
) -> None:
    student, teacher = torch.tensor([one]).double(), torch.tensor([other]).double()
    shifted = kl_softmax(teacher + 2.5, teacher, temperature)
    assert abs(float(shifted)) < 1e-5 * temperature**2
    divergence = float(kl_softmax(student, teacher, temperature)) / temperature**2
    apart = (student / temperature).softmax(dim=1) - (teacher / temperature).softmax(dim=1)
    # Pinsker's inequality: the divergence is above 0 wherever the probabilities differ.
    assert divergence > float(apart.abs().sum()) ** 2 / 2 - 1e-5


@given(LOGIT, LOGIT, st.sampled_from((0.5, 1.0, 4.0)))
def test_sigmoid_is_zero_if_and_only_if_the_logits_are_equal(one: float, other: float, temperature: float) -> None:
    student, teacher = torch.tensor([[one]]), torch.tensor([[other]])
    value = float(kl_sigmoid(student, teacher, temperature))
    assert float(kl_sigmoid(teacher, teacher, temperature)) == 0
    assert value > -1e-5 * temperature**2
    if abs(one - other) > 0.5 and temperature >= 1:
        assert value > 1e-6


@pytest.mark.parametrize("divergence", [kl_softmax, kl_sigmoid])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_zero_where_both_agree(divergence: object, temperature: float) -> None:
    assert callable(divergence)
    teacher = torch.randn(5, 3)
    student = teacher.clone().requires_grad_()
    loss: Tensor = divergence(student, teacher, temperature)
    loss.backward()
    assert student.grad is not None
    assert abs(float(loss.detach())) < 1e-5 and float(student.grad.abs().max()) < 1e-5
    away = (teacher + torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
    divergence(away, teacher, temperature).backward()
    assert away.grad is not None and float(away.grad.abs().max()) > 0.01


@pytest.mark.parametrize("divergence", [kl_softmax, kl_sigmoid])
def test_extreme_logits_give_finite_losses_and_gradients(divergence: object) -> None:
    assert callable(divergence)
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss: Tensor = divergence(student, torch.tensor([[-200.0, 200.0]]))
    loss.backward()
    assert loss.isfinite() and float(loss.detach()) > 100
    assert student.grad is not None and student.grad.isfinite().all()


def test_the_loss_by_hand() -> None:
    """Rows 0 and 2 of three are counted; row 2 is positive, its box in slot 1."""
    counted = matched([0, 2], [2], slots=[1], divisor=4.0)
    student, teacher = torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)
    student[:, 0], student[2, 1], teacher[2, 1] = 50.0, 2.0, 1.0
    one = head(probabilities((0.5, 0.5), (0.9, 0.1), (0.4, 0.6)), student, counted)
    other = head(probabilities((0.8, 0.2), (0.1, 0.9), (0.4, 0.6)), teacher)
    first = 0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5)
    loss = Vanilla(box_weight=0.5)(view(roi=one), view(roi=other), [])
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx((first + 0.5 * 4) / 4, rel=1e-6)
    assert float(Vanilla(box_weight=0.0)(view(roi=one), view(roi=other), [])) == pytest.approx(first / 4, rel=1e-5)


def run(rows: list[int], positives: list[int], *, student: int = 1, **options: float) -> tuple[Tensor, TwoHeads]:
    """The loss of two heads on six rows after its `backward`, and the student; the teacher's seed is 2."""
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    model, teacher = TwoHeads(student), TwoHeads(2)
    counted = {name: matched(rows, positives, name=name, divisor=float(max(len(rows), 1))) for name in ("rpn", "roi")}
    loss = Vanilla(**options)(view(**model.heads(inputs, counted)), view(**teacher.heads(inputs)), [])  # type: ignore[arg-type]
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    return loss.detach(), model


def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient() -> None:
    loss, model = run([0, 1, 4], [1, 4], student=2)
    assert abs(float(loss)) < 1e-6
    assert all(parameter.grad is not None and float(parameter.grad.norm()) < 1e-5 for parameter in model.parameters())
    assert float(run([0, 1, 4], [1, 4])[0]) > 0.1


def test_no_rows_give_zero_with_a_gradient_path() -> None:
    loss, model = run([], [])
    assert float(loss) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_without_positive_rows_only_the_classes_are_distilled() -> None:
    """Background rows count for the class term; the box term has no rows."""
    loss, model = run([0, 1], [])
    assert float(loss) > 0
    assert model.boxes.grad is not None and not model.boxes.grad.any()
    with_one, other = run([0, 1], [1])
    assert float(with_one) > float(loss)
    assert other.boxes.grad is not None and other.boxes.grad.any()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"box_weight": -1.0}, {"heads": []}, {"weight": -1.0}])
def test_options_out_of_range_raise(options: dict[str, object]) -> None:
    with pytest.raises(EyasError, match="Vanilla"):
        Vanilla(**options)  # type: ignore[arg-type]
