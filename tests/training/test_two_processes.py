"""A distiller under DistributedDataParallel: two gloo processes must train like one on the batch of both.

The processes are started once; the tests read what they wrote.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI, Auto, BoxMask, FitNets, Schedule
from eyas.types import Target
from helpers.gloo import two_processes
from helpers.toys import relative, seeded, toy_target

SIZE = (64, 96)
# Objects per image, two images on each process. In "one empty" the second process has no box at all.
CASES = {"uneven": (3, 1, 1, 0), "one empty": (2, 1, 0, 0), "all empty": (0, 0, 0, 0)}
BOXES = ((8.0, 8.0, 30.0, 30.0), (50.0, 20.0, 95.0, 60.0), (0.0, 40.0, 20.0, 64.0))


def batch(case: str) -> tuple[Tensor, list[Target]]:
    """The images and targets of both processes."""
    images = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(9))
    return images, [toy_target(*BOXES[:count]) for count in CASES[case]]


METHODS = {
    "dense": lambda: FGFI(1.0, init_std=0.1, sparse_below=0.0),
    "sparse": lambda: FGFI(1.0, init_std=0.1, sparse_below=1.1),
    "waiting": lambda: FGFI(1.0, init_std=0.1, schedule=Schedule(1)),
    "automatic": lambda: FGFI(Auto(warmup=0), init_std=0.1),
    "warming up": lambda: FGFI(Auto(), init_std=0.1),
    "fitnets": lambda: FitNets(1.0, init_std=0.1),
    "box_mask": lambda: BoxMask(1.0, init_std=0.1),
}
EVERYWHERE = ("fitnets",)
"""Methods that have something to imitate in images without objects."""


def distiller(method: str) -> Distiller:
    return Distiller(seeded(0), seeded(1, 6, norm=True), METHODS[method]())


def train_step(case: str, method: str, part: slice, *, parallel: bool) -> dict[str, Any]:
    """One step; the losses, the gradients before it and the parameters behind it."""
    model = distiller(method)
    module: nn.Module = DistributedDataParallel(model) if parallel else model
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    images, targets = batch(case)
    losses = module(images[part], targets[part])
    torch.stack(list(losses.values())).sum().backward()
    named = dict(model.named_parameters())
    gradients = {name: parameter.grad.clone() for name, parameter in named.items()}
    optimizer.step()
    return {
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "gradients": gradients,
        "parameters": {name: parameter.detach().clone() for name, parameter in named.items()},
    }


def rare(part: slice) -> dict[str, Any]:
    """Thirty batches of which three in five are empty in all processes: an automatic weight, and its host state."""
    model = Distiller(seeded(0), seeded(1, 6, norm=True), FGFI(Auto(warmup=3, every=3), init_std=0.1))
    weights = []
    for number in range(30):
        images, targets = batch("all empty" if number % 5 in (0, 2, 3) else "one empty")
        model(images[part], targets[part])
        weights.append(model.weights()["fgfi"])
    return {"weights": torch.tensor(weights), "host": torch.tensor(model.terms[0].auto.host_state())}


def work(rank: int) -> dict[tuple[str, str], dict[str, Any]]:
    part = slice(2 * rank, 2 * rank + 2)
    return {("rare", "automatic"): rare(part)} | {
        (case, method): train_step(case, method, part, parallel=True) for case in CASES for method in METHODS
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Any]]]:
    return two_processes(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(ranks: list[Any], case: str, method: str) -> None:
    """N_p must be that of both processes, over their number, because gradients are averaged."""
    alone = train_step(case, method, slice(None), parallel=False)
    for rank in ranks:
        found = rank[case, method]["gradients"]
        assert found.keys() == alone["gradients"].keys()
        for name, expected in alone["gradients"].items():
            assert relative(found[name], expected) < 1e-5, name


@pytest.mark.parametrize("method", ["sparse", "automatic", "box_mask", "fitnets"])
@pytest.mark.parametrize("case", ["uneven", "one empty"])
def test_losses_average_to_that_of_one_process(ranks: list[Any], case: str, method: str) -> None:
    """An earlier port read zero here."""
    name = next(iter(distiller(method).weights()))
    values = [float(rank[case, method]["losses"][name]) for rank in ranks]
    alone = float(train_step(case, method, slice(None), parallel=False)["losses"][name])
    assert alone > 0 and values[0] > 0
    assert sum(values) / 2 == pytest.approx(alone, rel=1e-5)
    assert (values[1] == 0) == (case == "one empty" and method not in EVERYWHERE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_processes_stay_in_step(ranks: list[Any], case: str, method: str) -> None:
    first, second = (rank[case, method]["parameters"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    start = dict(distiller(method).named_parameters())
    moved = {name for name, value in first.items() if not torch.equal(value, start[name])}
    adapters = {name for name in first if "adapters" in name}
    assert len(adapters) == 4
    trained = method != "waiting" and (case != "all empty" or method in EVERYWHERE)
    assert adapters <= moved if trained else adapters.isdisjoint(moved)
    assert not any("teacher" in name for name in first)


def test_processes_agree_on_the_batches_that_count(ranks: list[Any]) -> None:
    """A process decides by the counts of all: one that never sees an object too, or it would wait for ever."""
    first, second, alone = ranks[0]["rare", "automatic"], ranks[1]["rare", "automatic"], rare(slice(None))
    for key, value in first.items():
        assert torch.equal(value, second[key])
        torch.testing.assert_close(value, alone[key], rtol=1e-4, atol=0)
    assert float(first["weights"][0]) == 0 < float(first["weights"][-1])
