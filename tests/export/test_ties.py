"""Equal scores in the comparison of an exported detector: what rounding decides is no difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eyas.args import DataArgs
from eyas.data.formats.records import DataSource
from eyas.detectors import Deployed
from eyas.export.check import raw_differences
from eyas.export.ties import BreakTies, topk
from eyas.export.trial import ExportImages
from eyas.types import Detector

BOXES = torch.tensor([[10.0 * n, 0, 10.0 * n + 8, 8] for n in range(6)])
SCORES = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
"""One clear best, then four of equal scores, of which three are taken."""
IMAGE = torch.zeros(1, 3, 8, 64)


class Choosing(Deployed):
    """Proposes the four best boxes; an output of each that depends on all of them."""

    raw_names = ("proposals", "widths")
    matched = ("proposals", "widths")
    coupled = True

    def raw(self, images: Tensor) -> tuple[tuple[Tensor, ...], Sequence[int]]:
        return chosen(torch.topk(SCORES[None], 4, dim=1).indices[0].tolist()), [4]


class Ordered(Choosing):
    ordered = True


def chosen(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    proposals = BOXES[list(rows)]
    return proposals[None], (proposals + proposals.sum())[None]


class Answers:
    """A runtime whose file proposes these rows."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.metadata: Mapping[str, Any] = {}
        self.rows = rows

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        return list(chosen(self.rows))


def unmatched(*answers: Sequence[int], deployed: Deployed | None = None) -> dict[str, float]:
    """The differences over images on which the file proposes these rows."""
    images = iter(answers)

    class Runtime(Answers):
        def __init__(self) -> None:
            super().__init__(())

        def run(self, images_: Tensor, names: Sequence[str]) -> list[Tensor]:
            return list(chosen(next(images)))

    return raw_differences(deployed or Choosing(), Runtime(), [IMAGE] * len(answers))


@pytest.mark.parametrize("rows", [[0, 2, 3, 4], [4, 0, 3, 2], [0, 5, 4, 3]], ids=str)
def test_a_choice_among_equal_scores_is_compared_in_full(rows: list[int]) -> None:
    """PyTorch takes those of the lowest indices, then of the highest; the order of the rows does not matter."""
    assert unmatched(rows) == {"proposals": 0.0, "widths": 0.0, "unmatched": 0.0}


def test_another_choice_is_no_loss_where_other_images_are_compared() -> None:
    assert unmatched([0, 2, 3, 4], [0, 2, 5, 3]) == {"proposals": 0.0, "widths": 0.0, "unmatched": 0.0}
    assert unmatched([0, 2, 5, 3])["unmatched"] == 1.0  # nothing was compared


def test_a_proposal_that_no_tie_explains_is_lost() -> None:
    """Two choices of three from four equal ones differ in one at most."""
    assert unmatched([0, 2, 3, 4], [1, 2, 3, 5])["unmatched"] == pytest.approx(1 / 5)


def test_where_slots_count_equal_scores_may_still_swap() -> None:
    found = unmatched([0, 2, 3, 4], [0, 5, 4, 3], deployed=Ordered())
    assert found == {"proposals": 0.0, "widths": 0.0, "unmatched": 0.0}
    assert unmatched([0, 2, 3, 4], [2, 0, 3, 4], deployed=Ordered())["unmatched"] > 0


@pytest.mark.parametrize(("dim", "count"), [(1, 7), (0, 2), (-1, 20)])
def test_topk_takes_equal_scores_by_index(dim: int, count: int) -> None:
    torch.manual_seed(0)
    for _ in range(20):
        scores = torch.randint(0, 5, (3, 20)).float()
        for take, source in (("first", scores), ("last", scores.flip(dim))):
            values, indices = topk(scores, count, dim, take=take)  # type: ignore[arg-type]
            expected = source.sort(dim=dim, descending=True, stable=True)
            rows = expected.indices.narrow(dim, 0, count)
            assert values.equal(expected.values.narrow(dim, 0, count))
            assert indices.equal(rows if take == "first" else scores.shape[dim] - 1 - rows)


def test_nearly_equal_scores_are_equal_and_others_keep_their_order() -> None:
    scores = torch.tensor([1.0, 1.000001, 1.1, 0.9, 1.0000005])
    with BreakTies("first"):
        assert scores.topk(4).indices.tolist() == [2, 0, 1, 4]
        assert torch.topk(scores, k=5, largest=False).indices[0] == 3  # of the lowest: as it was
    with BreakTies("last"):
        assert torch.topk(scores, 4, dim=0).indices.tolist() == [2, 4, 1, 0]


class Scored(ExportImages):
    """A detector whose score depends on which of two equal scores it takes first."""

    def score(self, name: str, detector: Detector, metric: str) -> float:
        return 0.2 + 0.1 * float(torch.topk(torch.ones(2), 1).indices)


def test_a_score_may_be_that_of_another_order_of_equal_scores() -> None:
    source = DataSource(Path(), "coco", "val", ("cat",), (), ())
    images, detector = Scored(source, DataArgs(), None), object()
    for wanted in (0.2, 0.3):
        assert images.nearest_score(wanted, 0.2, detector, "coco") == pytest.approx(wanted)  # type: ignore[arg-type]
    assert images.nearest_score(0.5, 0.2, detector, "coco") == pytest.approx(0.3)  # type: ignore[arg-type]
