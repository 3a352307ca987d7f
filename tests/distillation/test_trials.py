"""Trying methods on a pair: what applies, why the others do not, and that nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch

from eyas.distillation.trials import Trial, noise_batch, try_methods
from eyas.methods import FGFI, FitNets, Method, RoIMimic, Vanilla
from eyas.types import EyasError
from helpers.toys import ToyDetector


def pair() -> tuple[ToyDetector, ToyDetector]:
    return ToyDetector(norm=True), ToyDetector(6, norm=True)


def test_a_method_applies_or_has_the_reason_that_a_training_would_give() -> None:
    methods = {"fgfi": FGFI, "vanilla": Vanilla, "roi_mimic": RoIMimic}
    trials = try_methods(*pair(), methods, noise_batch((64, 64)))
    assert list(trials) == ["fgfi", "vanilla", "roi_mimic"]
    assert trials["fgfi"].reason is None and (trials["fgfi"].cost or 0) > 0
    for name in ("vanilla", "roi_mimic"):
        assert "student" in str(trials[name].reason) or "teacher" in str(trials[name].reason)
        assert trials[name].cost is None


def test_a_trial_leaves_the_student_as_it_was() -> None:
    student, teacher = pair()
    before, random = copy.deepcopy(student.state_dict()), torch.random.get_rng_state()
    batch = noise_batch((64, 64))
    torch.random.set_rng_state(random)
    try_methods(student, teacher, {"fgfi": FGFI, "fitnets": FitNets}, batch)
    assert all(bool((before[name] == value).all()) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert bool((torch.random.get_rng_state() == random).all())


def test_a_check_refuses_too_and_costs_are_left_out_on_request() -> None:
    def check(method: Method) -> None:
        if method.name == "fgfi":
            raise EyasError("not with these classes")

    methods = {"fgfi": FGFI, "fitnets": FitNets}
    trials = try_methods(*pair(), methods, noise_batch((64, 64)), check=check, timed=False)
    assert trials == {"fgfi": Trial(reason="not with these classes"), "fitnets": Trial()}


def test_what_is_no_refusal_is_not_hidden() -> None:
    class Broken(FitNets):
        def masks(self, *_: object) -> list[torch.Tensor]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        try_methods(*pair(), {"broken": Broken}, noise_batch((64, 64)))
