"""PKD and CWD against the equations written out, their limiting cases, and maps of other sizes and channels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from eyas.methods import CWD, PKD
from eyas.methods.cwd import channel_divergence
from eyas.methods.pkd import pearson_loss
from eyas.ops.maps import channel_attention, moments, spatial_attention, standardise
from eyas.types import EyasError, Level, View
from helpers.map_cases import drawn, map_view, set_up


def test_a_standardised_channel_has_mean_0_and_unbiased_deviation_1() -> None:
    maps = 3 * drawn(2, 5, 4, 6) - 7
    found = standardise(maps)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.transpose(0, 1).flatten(1).std(dim=1), torch.ones(5))


def test_a_channel_without_deviation_becomes_0_with_a_finite_gradient() -> None:
    for maps in (torch.full((2, 3, 4, 4), 5.0), drawn(1, 3, 1, 1)):
        maps.requires_grad_()
        found = standardise(maps)
        assert not found.any()
        (found * drawn(*maps.shape, seed=1)).sum().backward()
        assert maps.grad is not None and torch.isfinite(maps.grad).all()


def test_pkd_is_one_minus_the_correlation_of_the_channels() -> None:
    student, teacher = drawn(2, 3, 4, 5).double(), drawn(2, 3, 4, 5, seed=1).double()
    count = 2 * 4 * 5
    correlations = [
        float(torch.corrcoef(torch.stack((student[:, c].flatten(), teacher[:, c].flatten())))[0, 1]) for c in range(3)
    ]
    expected = (1 - 1 / count) * sum(1 - r for r in correlations) / 3
    assert float(pearson_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_pkd_is_half_the_mean_squared_difference_of_the_standardised_maps() -> None:
    """As written, with its gradient; a constant channel, and one that deviates by as little as epsilon, among them."""
    student, teacher = drawn(2, 5, 4, 6) * 2 + 3, drawn(2, 5, 4, 6, seed=1)
    student[:, 1], teacher[:, 2] = 4.0, -1.0
    student[:, 3] = 1e-6 * student[:, 3]
    maps = [student.clone().requires_grad_() for _ in range(2)]
    found = pearson_loss(maps[0], teacher)
    written = (standardise(maps[1]) - standardise(teacher)).square().mean() / 2
    torch.testing.assert_close(found, written)
    (one,), (other,) = torch.autograd.grad(found, maps[0]), torch.autograd.grad(written, maps[1])
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("constant", [0.0, 0.3, 100.1])
def test_a_constant_channel_of_the_student_learns_nothing_and_counts_as_before(constant: float) -> None:
    """A dead channel behind a ReLU: its gradient would be a million times that of the others."""
    student, teacher = drawn(2, 4, 7, 6), drawn(2, 4, 7, 6, seed=1)
    student[:, 1] = constant
    student.requires_grad_()
    found, exact = pearson_loss(student, teacher), student.detach().double().requires_grad_()
    spread = (exact - exact.mean((0, 2, 3), keepdim=True)) / (exact.std((0, 2, 3), keepdim=True) + 1e-6)
    other = teacher.double()
    other = (other - other.mean((0, 2, 3), keepdim=True)) / (other.std((0, 2, 3), keepdim=True) + 1e-6)
    written = (spread - other).square().mean() / 2
    assert float(found.detach()) == pytest.approx(float(written.detach()), rel=1e-5)
    (one,), (by_hand,) = torch.autograd.grad(found, student), torch.autograd.grad(written, exact)
    live = [0, 2, 3]
    torch.testing.assert_close(one[:, live].double(), by_hand[:, live], rtol=1e-4, atol=1e-8)
    assert not one[:, 1].any()
    rescaled = standardise(student)
    (gradient,) = torch.autograd.grad((rescaled * teacher).sum(), student)
    assert not rescaled[:, 1].any() and not gradient[:, 1].any() and gradient[:, live].any()


def test_pkd_is_never_below_0_where_both_maps_are_nearly_alike() -> None:
    teacher = drawn(2, 64, 20, 24)
    losses = [float(pearson_loss(teacher + 1e-4 * drawn(*teacher.shape, seed=seed), teacher)) for seed in range(1, 9)]
    assert min(losses) >= 0 and max(losses) < 1e-6


def test_pkd_ignores_scale_and_shift_and_is_twice_for_the_opposite() -> None:
    student, teacher = drawn(2, 3, 6, 6), drawn(2, 3, 6, 6, seed=1)
    moved = student * torch.tensor([0.5, 20.0, 3.0]).view(3, 1, 1) + torch.tensor([4.0, -1.0, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(pearson_loss(moved, teacher), pearson_loss(student, teacher), atol=1e-5, rtol=1e-5)
    assert float(pearson_loss(student, 2 * student + 1)) == pytest.approx(0, abs=1e-6)
    assert float(pearson_loss(student, -student)) == pytest.approx(2 * (1 - 1 / 72), rel=1e-4)


def test_the_deviation_of_a_map_is_in_the_gradient() -> None:
    student, teacher = drawn(1, 2, 3, 3).double().requires_grad_(), drawn(1, 2, 3, 3, seed=1).double()
    pearson_loss(student, teacher).backward()
    assert student.grad is not None
    nudge = torch.zeros_like(teacher)
    nudge[0, 1, 2, 0] = 0.01
    above, below = (float(pearson_loss(student.detach() + sign * nudge, teacher)) for sign in (1, -1))
    assert float(student.grad[0, 1, 2, 0]) == pytest.approx((above - below) / 0.02, abs=1e-3)


def test_cwd_of_two_cells_by_hand() -> None:
    student, teacher = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[0.0, math.log(3)]]]])
    # The teacher's distribution is (1/4, 3/4), the student's (1/2, 1/2).
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(channel_divergence(student, teacher)) == pytest.approx(expected, rel=1e-6)


def test_cwd_is_a_mean_over_channels_and_images() -> None:
    student, teacher = drawn(3, 4, 5, 2), drawn(3, 4, 5, 2, seed=1)
    pairs = zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)
    each = [channel_divergence(own[None, None], other[None, None], 2.0) for own, other in pairs]
    torch.testing.assert_close(channel_divergence(student, teacher, 2.0), torch.stack(each).mean())


def test_cwd_ignores_a_shift_and_tends_to_half_the_variance() -> None:
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(channel_divergence(student + 9, teacher - 5), channel_divergence(student, teacher))
    variance = (teacher - student).flatten(2).var(dim=2, unbiased=False).mean()
    found = channel_divergence(student.double(), teacher.double(), 300.0)
    assert float(found) == pytest.approx(float(variance) / 2, rel=1e-2)
    assert float(channel_divergence(student, student)) == 0


def test_attention_sums_to_the_cells_and_to_the_channels() -> None:
    maps = drawn(2, 6, 3, 5)
    torch.testing.assert_close(spatial_attention(maps, 0.5).sum(dim=(1, 2)), torch.full((2,), 15.0))
    torch.testing.assert_close(channel_attention(maps, 0.5).sum(dim=1), torch.full((2,), 6.0))
    constant = torch.full((1, 6, 3, 5), 2.0)
    torch.testing.assert_close(spatial_attention(constant), torch.ones(1, 3, 5))
    torch.testing.assert_close(channel_attention(constant), torch.ones(1, 6))


def test_the_finest_are_counted_in_strides() -> None:
    """A DETR's encoder and backbone are paired both: two maps of each stride, of which none is left out by four."""
    maps = map_view(*(drawn(1, 2, 4, 4, seed=index) for index in range(6)))
    maps = replace(maps, levels=[Level(2, stride) for stride in (8, 8, 16, 16, 32, 32)])
    assert set_up(PKD(), maps, maps).chosen == (0, 1, 2, 3, 4, 5)
    assert set_up(PKD(finest=2), maps, maps).chosen == (0, 1, 2, 3)
    with pytest.raises(EyasError, match=r"finest is a whole number from 1, got 2\.5"):
        PKD(finest=2.5)  # type: ignore[arg-type]


def test_the_finest_levels_alone() -> None:
    maps = [drawn(2, 4, 8, 8), drawn(2, 4, 4, 4), drawn(2, 4, 2, 2)]
    student, teacher = map_view(*maps), map_view(*(map.flip(3) for map in maps))
    method = set_up(PKD(finest=2), student, teacher)
    method(student, teacher, [])
    assert list(method.parts) == ["s0", "s1"]
    with pytest.raises(EyasError, match="finest"):
        PKD(finest=0)


def test_a_1x1_convolution_only_where_the_channels_differ() -> None:
    student, teacher = map_view(drawn(2, 4, 8, 8), drawn(2, 3, 4, 4)), map_view(drawn(2, 4, 8, 8), drawn(2, 6, 4, 4))
    method = set_up(CWD(), student, teacher)
    assert isinstance(method.adapters[0], nn.Identity)
    own, other = method.adapters[1].weight.shape[:2][::-1]  # type: ignore[union-attr,index]
    assert (own, other) == (3, 6)
    assert torch.isfinite(method(student, teacher, []))


def test_a_student_of_twice_the_stride_is_compared_at_the_teachers_cells() -> None:
    """The teacher's 8 x 8 cells against the student's 4 x 4, interpolated as images are, half a cell apart."""
    coarse, fine = drawn(2, 4, 4, 4), drawn(2, 4, 8, 8, seed=1)
    student, teacher = View([coarse], [Level(4, 16)], (64, 64)), View([fine], [Level(4, 8)], (64, 64))
    method = set_up(PKD(), student, teacher)
    larger = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(method(student, teacher, []), pearson_loss(larger, fine))


def test_moments_of_a_batch() -> None:
    maps = drawn(2, 3, 4, 5)
    mean, deviation = moments(maps)
    torch.testing.assert_close(mean.flatten(), maps.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(deviation.flatten(), maps.transpose(0, 1).flatten(1).std(dim=1))
