"""Methods on whole maps, on two gloo processes with different numbers of images, equal one with the whole batch.

The tests average gradients as DDP does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eyas.methods import FGD, FRS, MGD, Cosine, DeFeat, SelfSimilarity
from eyas.methods.maps import MapImitation
from eyas.methods.mgd import shown_cells
from eyas.nn.processes import random_of_batch
from eyas.types import Target
from helpers.gloo import two_processes
from helpers.map_cases import drawn, map_view, set_up
from helpers.toys import relative, toy_target

METHODS: dict[str, Callable[[], MapImitation]] = {
    "mgd": lambda: MGD(hidden=0.0),
    "fgd": lambda: FGD(relation=1e-3),
    "defeat": DeFeat,
    "frs": FRS,
    "cosine": lambda: Cosine(smooth_l1=0.1),
    "self_similarity": lambda: SelfSimilarity(max_cells=9),
}
IMAGES = ([0, 1], [2])
BOXES = {
    "uneven": [toy_target((4, 4, 40, 30)), toy_target((10, 20, 60, 62)), toy_target((0, 0, 9, 9), (20, 20, 50, 50))],
    "one without boxes": [toy_target((4, 4, 40, 30)), toy_target(), toy_target()],
    "no boxes": [toy_target(), toy_target(), toy_target()],
}


def step(name: str, case: str, images: list[int]) -> dict[str, Tensor]:
    """The loss of these images in one process, and the gradients of the student's map and of the method's layers."""
    own, other = drawn(3, 3, 8, 8), drawn(3, 4, 8, 8, seed=1)
    offset = torch.zeros(3, 8, 8, requires_grad=True)
    student, teacher = map_view(own[images] + offset), map_view(other[images])
    torch.manual_seed(0)
    method = set_up(METHODS[name](), student, teacher)
    targets: list[Target] = [BOXES[case][index] for index in images]
    loss = method(student, teacher, targets)
    loss.backward()
    gradients = {key: value.grad for key, value in method.named_parameters() if value.grad is not None}
    assert offset.grad is not None
    return {"loss": loss.detach(), "student": offset.grad, **gradients}


def work(rank: int) -> dict[tuple[str, str], dict[str, Tensor]]:
    steps = {(name, case): step(name, case, IMAGES[rank]) for name in METHODS for case in BOXES}
    return steps | {("cells", "of mgd"): {"shown": shown_cells((1, 1, 8, 8), 0.5, random_of_batch(0, 3))}}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Tensor]]]:
    return two_processes(work, tmp_path_factory.mktemp("ranks"))


def test_processes_hide_other_cells(ranks: list[dict[tuple[str, str], dict[str, Tensor]]]) -> None:
    first, second = (rank["cells", "of mgd"]["shown"] for rank in ranks)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", BOXES)
def test_the_mean_over_processes_equals_one_process_with_the_whole_batch(
    ranks: list[dict[tuple[str, str], dict[str, Tensor]]], name: str, case: str
) -> None:
    alone = step(name, case, [0, 1, 2])
    first, second = (rank[name, case] for rank in ranks)
    assert first.keys() == second.keys() == alone.keys()
    for key, expected in alone.items():
        assert relative((first[key] + second[key]) / 2, expected) < 1e-5, key
