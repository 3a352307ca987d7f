"""MGD against the sum written out, and the cells that it hides: seeded by the batch, whatever else is drawn."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from eyas.distillation.distiller import Distiller
from eyas.methods import MGD
from eyas.methods.mgd import shown_cells
from eyas.nn.processes import random_of_batch
from eyas.types import EyasError
from helpers.map_cases import drawn, map_view, set_up
from helpers.toys import seeded, toy_batch


def transparent(method: MGD) -> MGD:
    """A method whose generators return twice a map that is at least 0, plus 1."""
    for generate in method.generators:
        convolutions = [layer for layer in cast(nn.Sequential, generate) if isinstance(layer, nn.Conv2d)]
        with torch.no_grad():
            for layer, scale in zip(convolutions, (1.0, 2.0), strict=True):
                nn.init.dirac_(layer.weight).mul_(scale)
                nn.init.constant_(cast(Tensor, layer.bias), scale - 1)
    return method


def test_the_loss_is_a_sum_over_channels_and_cells_per_image() -> None:
    own, other = drawn(3, 4, 6, 5).abs(), drawn(3, 4, 6, 5, seed=1)
    student, teacher = map_view(own), map_view(other)
    expected = float((2 * own.double() + 1 - other.double()).square().sum() / 3)
    loss = transparent(set_up(MGD(hidden=0.0), student, teacher))(student, teacher, [])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    mean = transparent(set_up(MGD(hidden=0.0, level_mean=True), student, teacher))(student, teacher, [])
    assert float(mean.detach()) == pytest.approx(expected / 30, rel=1e-5)


def test_hidden_cells_are_0_in_every_channel() -> None:
    own, other = drawn(2, 4, 6, 5).abs() + 0.1, drawn(2, 4, 6, 5, seed=1)
    student, teacher = map_view(own, batch=3), map_view(other, batch=3)
    method = transparent(set_up(MGD(hidden=0.65), student, teacher))
    shown = shown_cells((2, 1, 6, 5), 0.65, random_of_batch(method.seed, 3))
    assert shown.shape == (2, 1, 6, 5) and 0 < shown.sum() < shown.numel()
    squared = (2 * own * shown + 1 - other).square()
    torch.testing.assert_close(method(student, teacher, []), squared.sum() / 2)


def test_the_share_of_hidden_cells() -> None:
    shown = shown_cells((50, 1, 40, 50), 0.65, random_of_batch(0, 0))
    assert float(shown.mean()) == pytest.approx(0.35, abs=0.006)  # four standard deviations
    assert not torch.equal(shown[0], shown[1])
    assert shown_cells((2, 1, 4, 4), 0.0, random_of_batch(0, 0)).all()


def test_a_generator_sees_the_neighbours_of_a_hidden_cell() -> None:
    own = drawn(1, 4, 6, 6).requires_grad_()
    student, teacher = map_view(own), map_view(drawn(1, 4, 6, 6, seed=1))
    method = set_up(MGD(hidden=0.5), student, teacher)
    method(student, teacher, []).backward()
    shown = shown_cells((1, 1, 6, 6), 0.5, random_of_batch(method.seed, 0)).bool().expand(1, 4, 6, 6)
    assert own.grad is not None and not own.grad[~shown].any() and own.grad[shown].all()


def test_images_of_the_batch_do_not_add_up() -> None:
    own, other = drawn(2, 4, 6, 5), drawn(2, 4, 6, 5, seed=1)
    student, teacher = map_view(own), map_view(other)
    method = set_up(MGD(hidden=0.0), student, teacher)
    twice = map_view(own.repeat(2, 1, 1, 1)), map_view(other.repeat(2, 1, 1, 1))
    torch.testing.assert_close(method(*twice, []), method(student, teacher, []))


def distiller(seed: int = 0) -> Distiller:
    return Distiller(seeded(0), seeded(1, 6), MGD(weight=1.0), seed=seed)


def test_each_batch_hides_its_own_cells_and_leaves_the_global_random_numbers_alone() -> None:
    batch, one = toy_batch(), distiller()
    before = torch.get_rng_state()
    losses = [float(one(*batch)["mgd"].detach()) for _ in range(3)]
    assert len(set(losses)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_hides_the_same_cells() -> None:
    batch, one = toy_batch(), distiller()
    for _ in range(2):
        one(*batch)
    state = copy.deepcopy(one.state_dict())
    expected = [float(one(*batch)["mgd"].detach()) for _ in range(2)]
    torch.manual_seed(99)
    other = distiller()
    other.load_state_dict(state)
    assert [float(other(*batch)["mgd"].detach()) for _ in range(2)] == expected


def test_the_balance_draws_nothing() -> None:
    batch, one, other = toy_batch(), distiller(), distiller()
    before = torch.get_rng_state()
    one.balance(*batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(*batch)["mgd"], other(*batch)["mgd"])


def test_runs_of_other_seeds_hide_other_cells() -> None:
    first, second = (cast(MGD, distiller(seed).methods[0]) for seed in (0, 1))
    shown = [shown_cells((2, 1, 8, 8), 0.5, random_of_batch(method.seed, 0)) for method in (first, second)]
    assert not torch.equal(*shown)


def test_options_out_of_range() -> None:
    with pytest.raises(EyasError, match="hidden"):
        MGD(hidden=1.0)
