"""Output distillation on two gloo processes with different numbers of rows equals one process with the whole batch.

The heads are made by hand, and the tests average gradients as DDP does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.methods.bckd import BCKD
from eyas.methods.chen2017 import Chen2017
from eyas.methods.ld import LD
from eyas.methods.method import Method
from eyas.methods.query_ld import QueryLD
from eyas.methods.vanilla import Vanilla
from eyas.nn.processes import count_per_process
from eyas.ops.losses import ratio
from eyas.types import MatchedAnchors, QueryOutput, SideDistributions
from helpers.gloo import two_processes
from helpers.output_cases import TwoHeads, matched, view
from helpers.toys import relative

# For each case and process: which of its six rows count, and which of those are positive.
CASES = {
    "uneven": (([0, 1, 2, 5], [1, 5]), ([3], [3])),
    "one without boxes": (([0, 2, 4], [4]), ([1, 2], [])),
    "one empty": (([0, 2, 4], [4]), ([], [])),
    "all empty": (([], []), ([], [])),
}
METHODS: dict[str, Callable[[], Method]] = {
    "chen2017": lambda: Chen2017(mu=0.3),
    "vanilla": lambda: Vanilla(temperature=2.0),
    "ld": lambda: LD(region_weight=0.0, class_weight=0.5),
    "bckd": BCKD,
}


def counted_rows(case: str, ranks: list[int]) -> dict[str, MatchedAnchors]:
    """The counted rows of these processes, joined into one process: six rows of each, one process after another.

    One head divides by its rows; the other by its positives, as FCOS and ShuffleDet, and by 1 where there are none.
    """
    shift = [6 * index for index in range(len(ranks))]
    parts = [CASES[case][rank] for rank in ranks]
    rows, positives = (
        [row + offset for part, offset in zip(parts, shift, strict=True) for row in part[which]] for which in (0, 1)
    )
    return {
        "rpn": matched(rows, positives, divisor=float(len(rows)), name="rpn"),
        "roi": matched(rows, positives, divisor=float(len(positives)), least=1, name="roi"),
    }


def step(name: str, case: str, ranks: list[int]) -> dict[str, Tensor]:
    """The loss of these processes' rows in one process, and the student's gradients."""
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(4)).view(2, 6, 5)[ranks].flatten(0, 1)
    student, teacher = TwoHeads(1), TwoHeads(2)
    heads = student.heads(inputs, counted_rows(case, ranks))
    losses = {}
    for output in heads.values():
        assert output.matched is not None
        total = output.logits[output.matched.rows].square().sum()
        losses[output.matched.class_loss] = ratio(
            total, count_per_process(output.matched.divisor, output.matched.least)
        )
    loss = METHODS[name]()(view(losses, **heads), view(**teacher.heads(inputs)), [])
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in student.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), **gradients}


def query_step(ranks: list[int]) -> dict[str, Tensor]:
    """`step` for the method on queries, six of each process; the teacher is less sure of the first process's."""
    inputs = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(4)) * torch.tensor([0.1, 2.0])[:, None, None]
    places = torch.tensor([-1.0, -1, 1, 1])[:, None] * torch.tensor([1.0, 2.0])
    student, teacher = TwoHeads(1), TwoHeads(2)

    def answer(model: TwoHeads) -> QueryOutput:
        sides = (inputs[ranks] @ model.boxes).unflatten(-1, (4, 2))[None]
        logits = (inputs[ranks] @ model.classes)[None]
        return QueryOutput(
            logits, logits, ("a", "b", "c"), distributions=SideDistributions(sides, places.expand_as(sides))
        )

    decoders: list[Any] = [
        SimpleNamespace(answer=lambda points: answer(student)),
        SimpleNamespace(own=answer(teacher), points=None),
    ]
    loss = QueryLD()(*(replace(view(), decoder=decoder) for decoder in decoders), [])
    loss.backward()
    assert student.boxes.grad is not None
    return {"loss": loss.detach(), "boxes": student.boxes.grad}


def work(rank: int) -> dict[tuple[str, str], dict[str, Tensor]]:
    found = {(name, case): step(name, case, [rank]) for name in METHODS for case in CASES}
    return found | {("query_ld", "all"): query_step([rank])}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Tensor]]]:
    return two_processes(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_processes_equals_one_process_with_the_whole_batch(
    ranks: list[dict[tuple[str, str], dict[str, Tensor]]], name: str, case: str
) -> None:
    alone = step(name, case, [0, 1])
    first, second = (rank[name, case] for rank in ranks)
    learnt = {"classes", "boxes"} if name == "ld" else {"objectness", "classes", "boxes"}
    assert first.keys() == second.keys() == alone.keys() == {"loss", *learnt}
    for key, expected in alone.items():
        assert relative((first[key] + second[key]) / 2, expected) < 1e-5, key
    if case == "uneven":
        assert all(bool(value.any()) for value in alone.values())


def test_queries_of_both_processes_share_one_divisor(ranks: list[dict[tuple[str, str], dict[str, Tensor]]]) -> None:
    first, second = (rank["query_ld", "all"] for rank in ranks)
    for key, expected in query_step([0, 1]).items():
        assert relative((first[key] + second[key]) / 2, expected) < 1e-5 and bool(expected.any()), key
