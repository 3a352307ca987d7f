"""Automatic weights: the ratio of gradients that is held, and what happens before and around it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from eyas.distillation.distiller import Distiller
from eyas.distillation.weights import AutoWeight, divide_by_own_value, gradient_norm
from eyas.methods import FGFI, Auto, Method
from eyas.types import EyasError, Target, View
from helpers.toys import seeded, toy_batch, toy_target


def test_gradient_norm_is_over_all_maps_and_keeps_the_graph() -> None:
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    loss = 3 * first.sum() + 4 * second.sum()
    assert float(gradient_norm(loss, [first, second])) == pytest.approx(math.sqrt(6 * 9 + 4 * 16))
    loss.backward()
    assert float(gradient_norm(first.sum(), [second])) == 0
    assert float(gradient_norm(torch.tensor(1.0), [first])) == 0


def test_relative_has_value_one_and_a_gradient_without_scale() -> None:
    gradients = []
    for scale in (1.0, 1000.0):
        x = torch.tensor(2.0, requires_grad=True)
        loss = divide_by_own_value(scale * x.square())
        assert float(loss.detach()) == 1
        loss.backward()
        gradients.append(float(x.grad))
    assert gradients == [1.0, 1.0]  # d(x^2)/dx / x^2 at 2
    assert float(divide_by_own_value(torch.zeros(()))) == 0


def test_measurements_are_averaged_in_their_logarithm() -> None:
    weight = AutoWeight(Auto(fraction=0.5), start_step=0)
    assert float(weight.value()) == 0
    for detection, imitation in ((4.0, 1.0), (1.0, 4.0), (16.0, 1.0)):
        weight.update(torch.tensor(detection), torch.tensor(imitation))
    assert float(weight.value()) == pytest.approx(0.5 * 16 ** (1 / 3), rel=1e-5)  # of 4, 1/4 and 16


def test_a_batch_that_says_nothing_changes_nothing() -> None:
    weight = AutoWeight(Auto(), start_step=0)
    for detection, imitation in ((1.0, 0.0), (0.0, 1.0), (math.inf, 1.0), (1.0, math.nan)):
        weight.update(torch.tensor(detection), torch.tensor(imitation))
        assert int(weight.measurements) == 0
    weight.update(torch.tensor(2.0), torch.tensor(1.0))
    assert float(weight.value()) == pytest.approx(2.0)
    weight.update(torch.tensor(2.0), torch.tensor(0.0))
    assert float(weight.value()) == pytest.approx(2.0)


def test_it_is_followed_slowly() -> None:
    weight = AutoWeight(Auto(), start_step=0)
    for _ in range(20):
        weight.update(torch.tensor(1.0), torch.tensor(1.0))
    weight.update(torch.tensor(1000.0), torch.tensor(1.0))
    assert float(weight.value()) == pytest.approx(1000**0.1, rel=1e-4)


def test_when_it_measures() -> None:
    weight = AutoWeight(Auto(warmup=3, every=8), start_step=2)
    assert [step for step in range(40) if weight.warming_up(step)] == [0, 1, 2, 3, 4]
    assert [step for step in range(40) if weight.due(step)] == [*range(5, 15), 21, 29, 37]


def automatic(**options: float) -> Distiller:
    rule = Auto(**{"fraction": 0.5, "warmup": 2, "every": 1, **options})
    return Distiller(seeded(0), seeded(1, 6), FGFI(rule, init_std=0.1))


def feature_gradients(distiller: Distiller, name: str) -> float:
    """The norm of the gradient of one loss term at the student's maps, found by back-propagating it for real."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: dict[str, Tensor]) -> None:
        maps[:] = list(output.values())
        for value in maps:
            value.retain_grad()

    handle = distiller.student.neck.register_forward_hook(keep)
    losses = distiller(*toy_batch())
    handle.remove()
    total = losses["fgfi"] if name == "fgfi" else losses["loss_fine"] + losses["loss_coarse"]
    total.backward()
    return float(torch.cat([value.grad.flatten() for value in maps if value.grad is not None]).norm())


@pytest.mark.parametrize("fraction", [0.1, 2.0])
def test_the_fraction_is_held(fraction: float) -> None:
    distiller = automatic(fraction=fraction)
    with torch.no_grad():
        for _ in range(2):
            distiller(*toy_batch())
    distiller(*toy_batch())  # measures
    distiller.eval()
    imitation, detection = (feature_gradients(distiller, name) for name in ("fgfi", "detection"))
    assert imitation / detection == pytest.approx(fraction, rel=1e-4)
    assert distiller.weights()["fgfi"] > 0


def test_the_weight_does_not_know_the_scale_of_the_teachers_features() -> None:
    class Scaled(FGFI):
        def forward(self, student: View, teacher: View, targets: list[Target]) -> Tensor:
            return 1e4 * super().forward(student, teacher, targets)

    def term(method: Method) -> Tensor:
        distiller = Distiller(seeded(0), seeded(1, 6), method)
        distiller(*toy_batch())
        return distiller(*toy_batch())["fgfi"]

    rule = Auto(warmup=0, every=1)
    torch.testing.assert_close(term(Scaled(rule, init_std=0.1)), term(FGFI(rule, init_std=0.1)))


def test_warming_up_the_adapters_learn_and_the_student_feels_nothing() -> None:
    distiller = automatic()
    losses = distiller(*toy_batch())
    assert float(losses["fgfi"].detach()) == pytest.approx(1)
    losses["fgfi"].backward()
    assert all(parameter.grad is None for parameter in distiller.student.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in distiller.terms.parameters())


class Heads(Method):
    """A method without adapters: the teacher has nothing to do while it warms up."""

    def __init__(self) -> None:
        super().__init__("heads", Auto(warmup=2))

    def forward(self, student: View, teacher: View, targets: object) -> Tensor:
        return student.features[0].square().sum()


def test_without_adapters_there_is_nothing_to_warm_up() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), Heads())
    before = distiller.teacher.detector.predictions
    values = [float(distiller(*toy_batch())["heads"].detach()) for _ in range(3)]
    assert values[:2] == [0, 0] and values[2] > 0
    assert distiller.teacher.detector.predictions == before + 1


def test_images_without_objects_leave_the_weight_alone() -> None:
    distiller = automatic(warmup=0)
    images, targets = toy_batch()
    distiller(images, targets)
    weight = distiller.weights()
    loss = distiller(images, [toy_target(), toy_target()])["fgfi"]
    loss.backward()
    assert float(loss.detach()) == 0 and distiller.weights() == weight


def test_the_state_goes_on() -> None:
    distiller = automatic()
    for _ in range(5):
        distiller(*toy_batch())
    again = automatic()
    again.load_state_dict(distiller.state_dict())
    assert again.weights() == distiller.weights() and again.weights()["fgfi"] > 0
    assert torch.equal(again(*toy_batch())["fgfi"], distiller(*toy_batch())["fgfi"])


def test_evaluating_measures_nothing() -> None:
    distiller = automatic(warmup=0).eval()
    assert float(distiller(*toy_batch())["fgfi"].detach()) == 0
    assert int(distiller.terms[0].auto.measurements) == 0


def test_auto_by_name_is_the_default_rule() -> None:
    assert FGFI("auto").weight == Auto()


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": -1.0}, {"warmup": -1}, {"every": 0}])
def test_rules_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(EyasError, match="automatic weight"):
        Auto(**options)
