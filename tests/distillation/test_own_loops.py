"""Mistakes in a training loop of one's own: what went wrong in silence is refused, warned about, or right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyas import FGD, FGFI, PKD, BoxMask, CustomDetector, Distiller, FitNets, build
from eyas.distillation.weights import IDLE
from eyas.methods import Method, Schedule
from eyas.types import EyasError, Level, Prediction, Target, View
from helpers.toys import ToyDetector, seeded, toy_batch


def made(*methods: Method, student: Any = None, teacher: Any = None) -> Distiller:
    return Distiller(student or seeded(0), teacher or seeded(1, 6), *methods)


def step(distiller: Distiller, optimiser: torch.optim.Optimizer) -> None:
    losses = distiller(*toy_batch())
    optimiser.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()


# --- what is trained ---


def test_an_optimiser_without_the_adapters_is_told() -> None:
    distiller = made(FGFI(0.01))
    optimiser = torch.optim.SGD(distiller.student.parameters(), lr=1e-4)
    for _ in range(IDLE):
        step(distiller, optimiser)
    with pytest.warns(UserWarning, match=r"layers of fgfi have not changed.*distiller\.parameters\(\)"):
        step(distiller, optimiser)


def test_an_optimiser_with_the_adapters_is_not() -> None:
    distiller = made(FGFI(0.01), PKD(0.1))
    optimiser = torch.optim.AdamW(distiller.parameters(), lr=1e-4)
    for _ in range(IDLE + 2):
        step(distiller, optimiser)


@pytest.mark.parametrize("of", ["distiller", "student"])
def test_a_distiller_and_a_student_in_two_modes_are_told(of: str) -> None:
    distiller = made(FGFI(0.01))
    (distiller if of == "distiller" else distiller.student).eval()
    if of == "distiller":
        distiller.student.train()
    with pytest.warns(UserWarning, match=r"call distiller\.train\(\)"):
        distiller(*toy_batch())
    with torch.no_grad():
        distiller(*toy_batch())  # a loss of validation may be in either mode


def test_a_method_belongs_to_one_distiller() -> None:
    method = FGFI(0.01)
    adapters = [id(parameter) for parameter in made(method).methods[0].parameters()]
    with pytest.raises(EyasError, match="fgfi belongs to another distiller"):
        made(method)
    assert [id(parameter) for parameter in method.parameters()] == adapters
    copied = copy.deepcopy(made(FGFI(0.01)))
    assert float(copied(*toy_batch())["fgfi"].detach()) > 0


@pytest.mark.parametrize(
    ("methods", "message"), [([[FGFI()]], "got a list"), ([FGFI], "got the class FGFI"), (["fgfi"], "got a str")]
)
def test_methods_are_given_one_by_one(methods: list[Any], message: str) -> None:
    with pytest.raises(EyasError, match=f"methods are given one by one.*{message}"):
        made(*methods)


# --- passes that are no training ---


def test_a_pass_without_gradients_counts_neither_as_a_batch_nor_as_warm_up() -> None:
    plain, watched = made(FGFI()), made(FGFI())
    for distiller in (plain, watched):
        optimiser = torch.optim.SGD(distiller.parameters(), lr=1e-3)
        for _ in range(14):
            if distiller is watched:
                with torch.no_grad():
                    distiller(*toy_batch())
            step(distiller, optimiser)
    assert watched.weights() == plain.weights() and plain.weights()["fgfi"] > 0
    state, other = plain.state_dict(), watched.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in state.items() if isinstance(value, Tensor))


def test_an_evaluation_takes_nothing_of_the_announced_batches() -> None:
    (images, targets), announced = toy_batch(), made(FGFI(1.0, init_std=0.1))
    batches = [(images[:1], targets[:1]), (images[1:], targets[1:])]
    whole = made(FGFI(1.0, init_std=0.1))(images, targets)["fgfi"]
    announced.plan_step(batches)
    first = announced(*batches[0])["fgfi"]
    with torch.no_grad():
        announced(images, targets)
    torch.testing.assert_close((first + announced(*batches[1])["fgfi"]) / 2, whole)


def test_announced_batches_may_be_lists_of_images() -> None:
    (images, targets), announced = toy_batch(), made(FGFI(1.0, init_std=0.1))
    whole = made(FGFI(1.0, init_std=0.1))(images, targets)["fgfi"]
    batches = [([images[0]], targets[:1]), ([images[1]], targets[1:])]
    announced.plan_step(batches)
    torch.testing.assert_close(sum(announced(*batch)["fgfi"] for batch in batches) / 2, whole)


# --- what a detector does with what it is given ---


class Dividing(ToyDetector):
    """Turns boxes into fractions, as many losses do."""

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        for target in targets:
            target["boxes"] = target["boxes"] / 96
        return super().losses(images, targets)


class Normalising(ToyDetector):
    def predict(self, images: Tensor) -> list[Prediction]:
        return super().predict(images.sub_(0.5))


class Inferring(ToyDetector):
    def predict(self, images: Tensor) -> list[Prediction]:
        with torch.inference_mode():
            return super().predict(images)


def test_a_student_that_rewrites_its_targets_changes_no_mask_and_no_target_of_the_caller() -> None:
    images, targets = toy_batch()
    kept = [target["boxes"].clone() for target in targets]
    student, same = Dividing(), ToyDetector()
    same.load_state_dict(student.state_dict())
    one, other = (made(FGFI(1.0, init_std=0.1), student=own)(images, targets)["fgfi"] for own in (student, same))
    assert torch.equal(one, other) and float(one.detach()) > 0
    assert all(torch.equal(target["boxes"], boxes) for target, boxes in zip(targets, kept, strict=True))


def test_a_detector_that_changes_the_images_is_refused() -> None:
    with pytest.raises(EyasError, match="the teacher changes the images that it is given in place"):
        made(FGFI(1.0), teacher=Normalising(6))


@pytest.mark.parametrize("method", [FGFI, FGD, FitNets])
def test_a_teacher_in_inference_mode_teaches_as_any_other(method: Callable[[float], Method]) -> None:
    teacher, plain = Inferring(6), ToyDetector(6)
    plain.load_state_dict(teacher.state_dict())
    one, other = (made(method(1.0), teacher=own)(*toy_batch()) for own in (teacher, plain))
    torch.stack(list(one.values())).sum().backward()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_teacher_in_half_precision_is_given_images_in_its_own() -> None:
    teacher = seeded(1, 6)
    exact = made(FGFI(1.0, init_std=0.1), teacher=copy.deepcopy(teacher))(*toy_batch())["fgfi"]
    half = made(FGFI(1.0, init_std=0.1), teacher=teacher.bfloat16())(*toy_batch())["fgfi"]
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0)


def with_frozen_stem() -> CustomDetector:
    body = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 4, 3, padding=1))
    body[0].requires_grad_(False)
    levels = {"0": Level(4, 8), "1": Level(4, 8)}
    return CustomDetector(body, ["thing"], losses=lambda net, images, _: {"loss": net(images).mean()}, levels=levels)


def test_a_frozen_level_is_refused_only_where_it_is_to_imitate() -> None:
    baseline = Distiller(with_frozen_stem(), with_frozen_stem())
    assert list(baseline(*toy_batch())) == ["loss"]
    method = FGFI(1.0, schedule=Schedule(start_step=5))
    distiller = Distiller(with_frozen_stem(), with_frozen_stem(), method, pairs={"0": "0", "1": "1"})
    with pytest.raises(EyasError, match=r"level 0 comes from frozen parts alone.*use_reentrant=False"):
        distiller(*toy_batch())
    other = Distiller(with_frozen_stem(), with_frozen_stem(), FGFI(1.0), pairs={"1": "1"})
    assert list(other(*toy_batch())) == ["loss", "fgfi"]


# --- what losses and methods return ---


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "scalar tensors by name, one or more"),
        ({"a": torch.ones(1, requires_grad=True)}, r"loss a is a tensor \(1,\) and not a scalar tensor"),
        ({"a": torch.ones((), requires_grad=True), "accuracy": 0.5}, "loss accuracy is a float"),
    ],
)
def test_losses_of_a_student_that_are_no_scalars_are_refused_at_once(losses: Any, message: str) -> None:
    class Student(ToyDetector):
        def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
            super().losses(images, targets)
            return losses  # type: ignore[no-any-return]

    with pytest.raises(EyasError, match=message):
        made(FGFI(0.01), student=Student())(*toy_batch())


class Own(Method):
    """Returns what it is given for the student's finest map."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__("own", 1.0)
        self.answer = answer

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        return self.answer(student.features[0])  # type: ignore[no-any-return]


ANSWERS: Mapping[str, Callable[[Tensor], Any]] = {
    "returned a float": lambda features: float(features.detach().sum()),
    "returned a NoneType": lambda features: None,
    r"returned a tensor \(2,": lambda features: features.square(),
    "has no gradient": lambda features: features.detach().sum(),
}


@pytest.mark.parametrize("message", ANSWERS)
def test_a_method_that_returns_no_loss_is_refused_at_once(message: str) -> None:
    with pytest.raises(EyasError, match=f"method Own {message}"):
        made(Own(ANSWERS[message]))(*toy_batch())


def test_a_weight_of_0_needs_no_teacher() -> None:
    teacher = ToyDetector(6)
    distiller = made(FGFI(0.0), teacher=teacher)
    before = teacher.predictions
    losses = distiller(*toy_batch())
    assert teacher.predictions == before
    assert float(losses["fgfi"].detach()) == 0 and losses["fgfi"].requires_grad


# --- state, names, options ---


def test_a_state_of_methods_in_another_order_is_refused() -> None:
    state = made(FGFI(0.1), BoxMask(0.2)).state_dict()
    made(FGFI(0.1), BoxMask(0.2)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"its methods are \['fgfi', 'box_mask'\]"):
        made(BoxMask(0.2), FGFI(0.1)).load_state_dict(state)


def test_one_text_is_no_list_of_names() -> None:
    body = nn.Conv2d(3, 4, 8, stride=8)
    with pytest.raises(EyasError, match=r"write \['cell'\]"):
        build("shuffledet", "cell")
    with pytest.raises(EyasError, match=r"write \['cell'\]"):
        CustomDetector(body, "cell", levels={"": Level(4, 8)})
    with pytest.raises(EyasError, match=r"write \['body'\]"):
        CustomDetector(body, ["cell"], levels="body")


def test_options_of_another_type_say_what_they_are() -> None:
    with pytest.raises(EyasError, match="schedule is a Schedule"):
        FGFI(schedule={"start_step": 3})  # type: ignore[arg-type]
    for value in ("3", 2.5, float("nan"), -1):
        with pytest.raises(EyasError, match="start_step is a whole number of batches from 0"):
            Schedule(start_step=value)  # type: ignore[arg-type]
    distiller = made(FGFI(1.0, schedule=Schedule(end=0.1)))
    distiller.total_batches = 0
    with pytest.raises(EyasError, match=r"set Distiller\.total_batches, which is 0"):
        distiller(*toy_batch())
    with pytest.raises(EyasError, match='pairs is "index" or maps levels'):
        Distiller(seeded(0), seeded(1, 6), FGFI(), pairs=[("neck:fine", "neck:fine")])  # type: ignore[arg-type]
