"""The norm of a gradient at feature maps, in every precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eyas.detectors import build
from eyas.distillation import gradients
from eyas.distillation.balance import detection_loss
from eyas.distillation.distiller import Distiller
from eyas.distillation.gradients import HALF_SCALES, gradient_norm
from eyas.methods import FGFI
from helpers.toys import toy_target

OPTIONS = {"retinanet": {"fpn_channels": 16}, "faster_rcnn": {"fpn_channels": 16, "proposals_train": 40}}


def test_it_is_over_all_maps_and_keeps_the_graph() -> None:
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    loss = 3 * first.sum() + 4 * second.sum()
    assert float(gradient_norm(loss, [first, second])) == pytest.approx(math.sqrt(6 * 9 + 4 * 16))
    loss.backward()
    assert float(gradient_norm(first.sum(), [second])) == 0
    assert float(gradient_norm(torch.tensor(1.0), [first])) == 0


def ratio(kind: str, precision: torch.dtype, factor: float) -> float:
    """Imitation over detection gradient of a detector pair of this kind, both losses times a factor."""
    torch.manual_seed(0)
    student, teacher = (
        build(kind, ("a", "b"), backbone="mobilenet_v3_small", options=OPTIONS[kind]).train() for _ in "st"
    )
    distiller = Distiller(student, teacher, FGFI(1.0, init_std=0.02))
    (method,) = distiller.methods
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    targets = [toy_target((10.0, 20.0, 60.0, 90.0), (70.0, 30.0, 120.0, 60.0)), toy_target((40.0, 40.0, 110.0, 120.0))]
    with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
        own, other = distiller._views(images, targets, list(distiller.terms))
        losses = [factor * method(own, other, targets), factor * detection_loss(own)]
        above, below = (float(gradient_norm(loss, own.features)) for loss in losses)
    return above / below


@pytest.mark.parametrize("kind", OPTIONS)
def test_in_float16_small_gradients_do_not_underflow(kind: str) -> None:
    """A tenth: ten times the near cells. The ratio does not depend on the factor, and float32 has the true one."""
    expected = ratio(kind, torch.float32, 1.0)
    for factor in (1.0, 0.1, 1e-4):
        assert ratio(kind, torch.float16, factor) == pytest.approx(expected, rel=0.03), factor


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1.0, 1e3, 1e6])
def test_float16_gradients_of_every_size(size: float) -> None:
    """The float16 gradient of 1e6 itself overflows: a factor below 1 holds it."""
    features = torch.ones(4, dtype=torch.float16, requires_grad=True)
    assert float(gradient_norm((features.float() * size).sum(), [features])) == pytest.approx(2 * size, rel=1e-3)


def test_no_factor_makes_an_infinite_gradient_finite() -> None:
    features = torch.zeros(4, dtype=torch.float16, requires_grad=True)
    assert not math.isfinite(float(gradient_norm(features.float().sqrt().sum(), [features])))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_in_other_precisions_nothing_is_scaled(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.rand(50, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.rand(50, 50, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
            return (features @ weight).float().square().mean()

    (gradient,) = torch.autograd.grad(loss(), [features])
    monkeypatch.setattr(gradients, "HALF_SCALES", ())
    with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
        assert torch.equal(gradient_norm(loss(), [features]), gradient.float().square().sum().sqrt())
    assert HALF_SCALES[0] > 1
