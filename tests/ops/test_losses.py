"""Losses of rows and boxes against hand-computed values, float64 and torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from eyas.ops.losses import giou_loss, iou_loss, soft_bce


def test_soft_bce_by_hand() -> None:
    """sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4: log 2 for the entropy, 1/4 for the factor."""
    student, teacher = torch.zeros(1), torch.tensor([math.log(3)])
    torch.testing.assert_close(soft_bce(student, teacher), torch.tensor([math.log(2) / 4]))
    torch.testing.assert_close(soft_bce(student, teacher, beta=2.0), torch.tensor([math.log(2) / 16]))
    torch.testing.assert_close(soft_bce(student, teacher, beta=0.0), torch.tensor([math.log(2)]))


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_soft_bce_in_float64(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (5 * torch.randn(40, 3, generator=generator) for _ in range(2))
    p, q = (logits.double().sigmoid() for logits in (student, teacher))
    expected = -(q * p.log() + (1 - q) * (1 - p).log()) * (q - p).abs() ** beta
    torch.testing.assert_close(soft_bce(student, teacher, beta).double(), expected, rtol=1e-4, atol=1e-6)


def test_soft_bce_at_equal_and_at_extreme_logits() -> None:
    logits = torch.tensor([-200.0, -3.0, 0.0, 4.0, 200.0], requires_grad=True)
    loss = soft_bce(logits, logits)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert not loss.any() and not gradient.any()
    loss = soft_bce(logits, -logits)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(loss.isfinite().all()) and bool(gradient.isfinite().all())


def test_soft_bce_gives_the_teacher_no_gradient_and_the_factor_one() -> None:
    student, teacher = torch.zeros(1, requires_grad=True), torch.full((1,), math.log(3), requires_grad=True)
    soft_bce(student, teacher).sum().backward()
    # d/dz (BCE f): (1/2 - 3/4) / 4 - log 2 / 4, where sigmoid has the slope 1/4
    assert teacher.grad is None and student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([-1 / 16 - math.log(2) / 4]))


def boxes(count: int, seed: int) -> Tensor:
    corners = 40 * torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat((corners.amin(1), corners.amax(1)), dim=1)


def test_giou_is_torchvisions_with_its_gradient() -> None:
    ours, theirs = (boxes(200, 0).requires_grad_() for _ in range(2))
    first, second = giou_loss(ours, boxes(200, 1)), generalized_box_iou_loss(theirs, boxes(200, 1))
    torch.testing.assert_close(first, second)
    gradients = [torch.autograd.grad(loss.sum(), own)[0] for loss, own in ((first, ours), (second, theirs))]
    torch.testing.assert_close(*gradients)


def test_box_losses_by_hand() -> None:
    a = torch.tensor([0.0, 0, 2, 2])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2], [0, 0, 2, 1]])
    torch.testing.assert_close(iou_loss(a, b), torch.tensor([0, 2 / 3, 1, 1 / 2]))
    torch.testing.assert_close(giou_loss(a, b), torch.tensor([0, 2 / 3, 1 + 4 / 12, 1 / 2]))


@pytest.mark.parametrize("loss", [iou_loss, giou_loss])
def test_empty_boxes_have_finite_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Points, lines and boxes with swapped corners, as an untrained head predicts them."""
    odd = [
        [5.0, 5, 5, 5],
        [5, 5, 5, 9],
        [5, 5, 9, 5],
        [9, 9, 5, 5],
        [0, 0, 1e-6, 1e-6],
        [0, 0, 0.02, 0.02],
        [0, 0, 10, 10],
    ]
    a = torch.tensor(odd).repeat_interleave(len(odd), 0).requires_grad_()
    b = torch.tensor(odd).repeat(len(odd), 1)
    value = loss(a, b)
    (gradient,) = torch.autograd.grad(value.sum(), a)
    assert bool(gradient.isfinite().all()) and 0 <= float(value.detach().min()) <= float(value.detach().max()) <= 2


@pytest.mark.parametrize("loss", [iou_loss, giou_loss])
def test_equal_boxes_have_no_loss_even_where_they_are_empty(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    odd = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 9], [0, 0, 1e-6, 1e-6]])
    torch.testing.assert_close(loss(odd, odd), torch.zeros(4))
    assert float(giou_loss(odd[0], odd[0] + 3)) == 2
