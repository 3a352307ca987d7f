"""What holds for every method that comes with Eyas, on the first tiny pair of detectors that it applies to.

A new method is tested here once it has a short name. Where inputs leave nothing to compare, its loss and gradients are
finite, or an EyasError says why it refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eyas.commands.methods import method_class
from eyas.commands.names import METHODS
from eyas.distillation.distiller import Distiller
from eyas.methods import Method
from eyas.nn.compile import compile_levels
from eyas.types import EyasError, Target
from helpers.gloo import two_processes
from helpers.method_pairs import SIZE, make, pair_of

Batch = tuple[Tensor, list[Target]]


def target(*boxes: tuple[float, float, float, float]) -> Target:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def images(number: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(5))


BATCHES: dict[str, Callable[[], Batch]] = {
    "no boxes": lambda: (images(2), [target(), target()]),
    "one box": lambda: (images(2), [target((10, 12, 50, 40)), target()]),
    "one image": lambda: (images(1), [target((10, 12, 50, 40), (60, 8, 90, 60))]),
    "one image, no boxes": lambda: (images(1), [target()]),
    "maps of one cell": lambda: (images(2, (16, 16)), [target((1, 2, 14, 12)), target((4, 4, 12, 15))]),
    "boxes at the edges": lambda: (images(2), [target((0, 0, 96, 64)), target((95, 63, 96, 64), (0, 0, 1, 1))]),
}


def marked(name: str) -> Any:
    """Detectors that give such things take seconds."""
    costly = {"proposals", "queries", "distributions"}.intersection(method_class(name)().needs)
    return pytest.param(name, marks=[pytest.mark.slow] if costly else [])


EVERY = [marked(name) for name in METHODS]


@cache
def _made(pair: str) -> tuple[Any, Any]:
    return make(pair, 0), make(pair, 1)


def distiller_of(name: str, *, blank: bool = False) -> Distiller:
    """Student and teacher of the method's pair and the method with a weight of 1; blank: their weights are all 0."""
    student, teacher = copy.deepcopy(_made(pair_of(name)))
    if blank:
        for detector in (student, teacher):
            for parameter in detector.network.parameters():
                nn.init.zeros_(parameter)
    method: Method = method_class(name)()
    method.weight = 1.0
    return Distiller(student, teacher, method)


def check(distiller: Distiller, batch: Batch) -> Tensor | None:
    """The method's loss, finite, as are its gradients; None where it is refused."""
    (method,) = distiller.methods
    try:
        loss = distiller(*batch)[method.name]
    except EyasError as error:
        assert len(str(error)) > 20, "a refusal has a reason"
        return None
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert bool(loss.isfinite())
    assert loss.requires_grad, "a loss has a gradient path even where it is 0"
    loss.backward()
    for key, parameter in distiller.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), key
    return loss.detach()


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_with_little_to_compare_gives_finite_numbers_or_a_reason(name: str) -> None:
    for case, batch in BATCHES.items():
        try:
            check(distiller_of(name), batch())
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            pytest.fail(f"{case}: {error!r}")


@pytest.mark.parametrize("name", EVERY)
def test_constant_maps_give_finite_numbers_or_a_reason(name: str) -> None:
    check(distiller_of(name, blank=True), BATCHES["one box"]())


@pytest.mark.parametrize("name", EVERY)
def test_losses_are_computed_in_float32_under_mixed_precision(name: str) -> None:
    batch = BATCHES["one image"]()
    whole = check(distiller_of(name), batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = check(distiller_of(name), batch)
    assert whole is not None and mixed is not None
    # Some methods draw random numbers, others each time.
    assert float(mixed) == pytest.approx(float(whole), rel=0.5, abs=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_the_teacher_gets_no_gradient_and_keeps_its_values(name: str) -> None:
    distiller = distiller_of(name)
    before = [copy.deepcopy(module.state_dict()) for module in distiller.teacher.networks]
    check(distiller, BATCHES["one image"]())
    for module, state in zip(distiller.teacher.networks, before, strict=True):
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(bool((state[key] == value).all()) for key, value in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own reading
@pytest.mark.parametrize("name", METHODS)
def test_compiled_levels_give_the_same_loss(name: str) -> None:
    """As under ``--run.compile``, but for the code that the compiler makes of the graphs."""
    eager, compiled = distiller_of(name), distiller_of(name)
    for detector in (compiled.student, compiled.teacher.detector):
        compile_levels(detector, backend="eager")
    losses = []
    for distiller in (eager, compiled):
        torch.manual_seed(0)
        (method,) = distiller.methods
        losses.append(distiller(*BATCHES["one image"]())[method.name])
    torch._dynamo.reset()
    assert losses[0].equal(losses[1])


STEPS = 2


def trained(rank: int) -> dict[str, list[Tensor]]:
    """Method -> its student's parameters and its own after two steps under DDP; the second process sees no boxes."""
    found = {}
    for name in METHODS:
        module = DistributedDataParallel(distiller_of(name))
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        batch = BATCHES["no boxes" if rank else "one box"]()
        for _ in range(STEPS):
            torch.stack([loss.float() for loss in module(*batch).values()]).sum().backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        found[name] = [parameter.detach() for parameter in module.parameters()]
    return found


@pytest.mark.slow
def test_processes_that_see_other_numbers_of_boxes_stay_alike(tmp_path: Path) -> None:
    first, second = two_processes(partial(trained), tmp_path)
    for name in METHODS:
        assert all(bool(own.isfinite().all()) for own in first[name]), name
        assert all(bool((own == other).all()) for own, other in zip(first[name], second[name], strict=True)), name
