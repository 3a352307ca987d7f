"""Batches whose gradients are accumulated have one N_p, that of the whole step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from eyas import CWD, FGD, FGFI, BoxMask, Cosine, CustomDetector, Distiller, FitNets, SelfSimilarity, Vanilla
from eyas.distillation.accumulation import step_shares
from eyas.methods import Method
from eyas.types import Level, Target


def network(channels: int, seed: int) -> CustomDetector:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, channels, 3, stride=8, padding=1), nn.ReLU())
    return CustomDetector(
        body,
        ("thing",),
        losses=lambda net, images, _: {"loss": net(images).square().mean()},
        levels={"1": Level(channels, 8)},
    )


def image(number: int) -> tuple[Tensor, list[Target]]:
    """One image with 0 to 3 boxes of very different sizes."""
    random = torch.Generator().manual_seed(number)
    sides = 8 + 72 * torch.rand(number % 4, 1, generator=random).expand(-1, 2)
    corners = (96 - sides) * torch.rand(number % 4, 2, generator=random)
    boxes = torch.cat((corners, corners + sides), dim=1)
    target: Target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}
    return torch.rand(1, 3, 96, 96, generator=random), [target]


def made(*methods: nn.Module) -> Distiller:
    return Distiller(network(4, 0), network(6, 1), *methods).train()


def methods() -> list[nn.Module]:
    return [FGFI(1.0, init_std=0.1), BoxMask(0.5, init_std=0.1), FitNets(0.1, init_std=0.1)]


def gradients(distiller: Distiller) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in distiller.named_parameters() if parameter.grad is not None}


def test_micro_batches_of_one_equal_the_whole_batch() -> None:
    """Losses and gradients, where three of eight images have no objects and the sizes of the others differ."""
    batches = [image(number) for number in (0, 1, 2, 4, 5, 7, 8, 11)]
    whole = made(*methods())
    losses = whole(torch.cat([images for images, _ in batches]), [target for _, (target,) in batches])
    sum(losses.values()).backward()

    parts = made(*methods())
    parts.plan_step(batches)
    means = dict.fromkeys(losses, torch.zeros(()))
    for images, targets in batches:
        found = parts(images, targets)
        (torch.stack(list(found.values())).sum() / len(batches)).backward()
        means = {name: value + found[name].detach() / len(batches) for name, value in means.items()}

    for name, value in losses.items():
        torch.testing.assert_close(means[name], value)
    ours, theirs = gradients(parts), gradients(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 4
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [Cosine, CWD, FGD, SelfSimilarity])
def test_a_smaller_last_batch_counts_by_its_images(make: Callable[[], Method]) -> None:
    """Four images as 3 + 1, as a training has them at the end of an epoch."""

    def method() -> Method:
        made = make()
        made.weight = 1.0
        return made

    images, targets = zip(*(image(number) for number in (1, 2, 3, 6)), strict=True)
    parts = [(torch.cat(images[:3]), [target for (target,) in targets[:3]]), (images[3], targets[3])]
    whole, split = made(method()), made(method())
    (loss,) = (
        value for name, value in whole(torch.cat(images), [target for (target,) in targets]).items() if name != "loss"
    )
    loss.backward()
    split.plan_step(parts)
    name = whole.methods[0].name
    total = torch.stack([split(*part)[name] for part in parts]).mean()
    total.backward()
    torch.testing.assert_close(total, loss)
    ours, theirs = gradients(split), gradients(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 1
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=1e-6)


def test_without_a_plan_each_batch_has_its_own_average() -> None:
    batches = [image(0), image(7)]
    planned, alone = made(FGFI(1.0)), made(FGFI(1.0))
    planned.plan_step(batches)
    assert planned(*batches[0])["fgfi"].item() == alone(*batches[0])["fgfi"].item() == 0
    torch.testing.assert_close(planned(*batches[1])["fgfi"], 2 * alone(*batches[1])["fgfi"])
    torch.testing.assert_close(
        planned(*batches[1])["fgfi"], alone(*batches[1])["fgfi"], msg="a plan holds for one step"
    )


def test_the_shares_by_hand() -> None:
    counts = torch.tensor([[3, 0, 5], [1, 0, 0], [0, 0, 0], [4, 0, 0]])
    assert step_shares(counts).tolist() == [[1.5, 0, 4], [0.5, 0, 0], [0, 0, 0], [2, 0, 0]]


def test_a_method_that_cannot_count_in_advance_keeps_its_own_average() -> None:
    counted = made(FGFI(1.0), Vanilla(1.0))._counts(*image(7))
    assert list(counted) == ["fgfi"] and counted["fgfi"] > 0


def test_counting_leaves_no_trace() -> None:
    """No random number is drawn, no mode and no statistics change."""
    distiller = made(FGFI(1.0))
    distiller.student.network.add_module("norm", nn.BatchNorm2d(4))
    before, state = (
        {k: v.clone() for k, v in distiller.state_dict().items() if isinstance(v, Tensor)},
        torch.get_rng_state(),
    )
    distiller.plan_step([image(7), image(5)])
    assert torch.equal(torch.get_rng_state(), state) and distiller.student.network.training
    assert all(torch.equal(distiller.state_dict()[key], value) for key, value in before.items())
