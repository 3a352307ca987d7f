"""The share of a method's loss that each level has: in the log, before the first step, and after a resume."""

from __future__ import annotations

import pytest
import torch

from eyas.distillation.distiller import Distiller
from eyas.distillation.shares import PartSums, dominant, shares
from eyas.methods import FGFI, Auto, FitNets
from helpers.toys import seeded, toy_batch, toy_target


def distilled(weight: float | Auto = 0.5) -> Distiller:
    return Distiller(seeded(0), seeded(1, 6), FGFI(weight, init_std=0.1))


def test_shares_of_a_sum() -> None:
    assert shares({"fine": 3.0, "coarse": 1.0}) == {"fine": 0.75, "coarse": 0.25}
    assert shares({"alone": 3.0}) == shares({}) == shares({"fine": 0.0, "coarse": 0.0}) == {}
    assert dominant({"fine": 91.0, "coarse": 9.0}) == ("fine", pytest.approx(0.91))
    assert dominant({"fine": 90.0, "coarse": 10.0}) is None
    assert dominant({"alone": 1.0}) is None


def test_negative_parts_count_by_their_absolute_value() -> None:
    sums = PartSums()
    sums.add({"rpn": torch.tensor(-3.0), "roi": torch.tensor(1.0)})
    sums.add({"rpn": torch.tensor(1.0), "roi": torch.tensor(-1.0)})
    assert {name: float(part) for name, part in sums.take().items()} == {"rpn": 4.0, "roi": 2.0}
    assert sums.take() == {}


def test_the_parts_of_the_steps_add_up_to_their_losses_and_are_taken_once() -> None:
    distiller = distilled()
    total = sum(float(distiller(*toy_batch())["fgfi"].detach()) for _ in range(3))
    (parts,) = distiller.take_parts().values()
    assert list(parts) == [pair.student_tap for pair in distiller.pairs]
    assert 0.5 * sum(map(float, parts.values())) == pytest.approx(total, rel=1e-5)
    assert distiller.take_parts() == {"fgfi": {}}


def test_batches_that_the_student_does_not_feel_do_not_count() -> None:
    warming = distilled(Auto(warmup=3))
    warming(*toy_batch())
    assert warming.take_parts() == {"fgfi": {}}
    whole = distilled()
    whole.eval()
    whole.balance(*toy_batch())
    assert whole.take_parts() == {"fgfi": {}}


def test_the_sums_go_on_from_a_checkpoint() -> None:
    whole, stopped, resumed = distilled(), distilled(), distilled()
    batches = [toy_batch(), (toy_batch()[0], [toy_target((2, 3, 40, 50)), toy_target()])]
    for batch in batches:
        whole(*batch)
    stopped(*batches[0])
    resumed.load_state_dict(stopped.state_dict())
    resumed(*batches[1])
    assert resumed.take_parts() == whole.take_parts()
    assert distilled().get_extra_state() == {"batches": 0, "methods": ["fgfi"]}, "as before there were parts"


@pytest.mark.parametrize("parts", [[], {"fgfi": 3}, {"fgfi": {"fine": "much"}}])
def test_a_state_whose_parts_are_none_is_refused(parts: object) -> None:
    with pytest.raises(ValueError, match="parts"):
        distilled().set_extra_state({"batches": 1, "parts": parts})


def test_a_balance_has_the_parts_of_each_method() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(0.5, init_std=0.1), FitNets("auto"))
    balance = distiller.balance(*toy_batch())
    assert 0.5 * sum(balance.parts["fgfi"].values()) == pytest.approx(balance.imitation["fgfi"], rel=1e-5)
    assert sum(balance.parts["fitnets"].values()) == pytest.approx(balance.imitation["fitnets"], rel=1e-5)
