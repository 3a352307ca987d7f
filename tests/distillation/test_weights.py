"""Automatic weights: the ratio of gradients that is held, and what happens before and around it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from eyas.distillation.distiller import Distiller
from eyas.distillation.weights import FIRST, AutoWeight, divide_by
from eyas.methods import FGFI, Auto, Chen2017, Method
from eyas.types import EyasError, Target, View
from helpers.toys import seeded, toy_batch, toy_target


def test_relative_has_value_one_and_a_gradient_without_scale() -> None:
    gradients = []
    for scale in (1.0, 1000.0):
        x = torch.tensor(2.0, requires_grad=True)
        loss = scale * x.square()
        loss = divide_by(loss.detach(), loss)
        assert float(loss.detach()) == 1
        loss.backward()
        gradients.append(float(x.grad))
    assert gradients == [1.0, 1.0]  # d(x^2)/dx / x^2 at 2
    assert float(divide_by(torch.zeros(()), torch.zeros(()))) == 0
    assert float(divide_by(torch.tensor(-4.0), torch.tensor(-4.0))) == -1, "a loss may be negative"


def test_measurements_are_averaged_in_their_logarithm() -> None:
    weight = AutoWeight(Auto(fraction=0.5), start_step=0)
    assert float(weight.value()) == 0
    for detection, imitation in ((4.0, 1.0), (1.0, 4.0), (16.0, 1.0)):
        weight.update(torch.tensor(detection), torch.tensor(imitation))
    assert float(weight.value()) == pytest.approx(0.5 * 16 ** (1 / 3), rel=1e-5)  # of 4, 1/4 and 16


def test_a_batch_that_says_nothing_changes_nothing() -> None:
    weight = AutoWeight(Auto(fraction=1.0), start_step=0)
    for detection, imitation in ((1.0, 0.0), (0.0, 1.0), (math.inf, 1.0), (1.0, math.nan)):
        weight.update(torch.tensor(detection), torch.tensor(imitation))
        assert int(weight.measurements) == 0
    weight.update(torch.tensor(2.0), torch.tensor(1.0))
    assert float(weight.value()) == pytest.approx(2.0)
    weight.update(torch.tensor(2.0), torch.tensor(0.0))
    assert float(weight.value()) == pytest.approx(2.0)


def drive(
    weight: AutoWeight, batches: int, norms: Callable[[int], tuple[float, float]], loss: float = 1.0
) -> list[tuple[int, float]]:
    """Take a weight through batches with the (detection, imitation) norms; the weight after each measured one."""
    weights = []
    for batch in range(batches):
        if weight.warming_up(batch):
            weight.warm_up(torch.tensor(loss))
        elif weight.due(batch):
            weight.update(*(torch.tensor(norm) for norm in norms(batch)))
            weights.append((batch, float(weight.value())))
    return weights


def test_when_it_measures() -> None:
    weight = AutoWeight(Auto(fraction=1.0, warmup=3, every=8), start_step=2)
    measured = [batch for batch, _ in drive(weight, 40, lambda batch: (1.0, 1.0))]
    # The warm-up takes batches 2, 3 and 4. Then ten in a row, then one of each eight, whose place moves on.
    assert measured == [*range(5, 15), 5 + 2 * 8 + 2, 5 + 3 * 8 + 3]


def test_a_batch_in_ten_meets_every_place_of_an_ordered_loader() -> None:
    weight = AutoWeight(Auto(fraction=1.0, warmup=0, every=10), start_step=0)
    drive(weight, 20, lambda batch: (1.0, 1.0))
    due = [batch for batch in range(100, 200) if weight.due(batch)]
    assert len(due) == 10 and {batch % 10 for batch in due} == set(range(10))


def test_a_detection_gradient_that_falls_is_followed_within_120_batches() -> None:
    """By n measurements the distance falls to 0.7^n: ln 100 * 0.7^11 = 0.091 < ln 1.1 = 0.095 < ln 100 * 0.7^10."""
    weights = drive(AutoWeight(Auto(fraction=1.0), 0), 400, lambda batch: (1.0 if batch < 200 else 0.01, 1.0))
    after = [(batch, weight) for batch, weight in weights if batch >= 200]
    assert weights[len(weights) - len(after) - 1][1] == pytest.approx(1)
    assert [weight for _, weight in after[:2]] == pytest.approx([100**-0.3, 100**-0.51], rel=1e-4)
    assert [weight / 0.01 < 1.1 for _, weight in after[9:11]] == [False, True]
    assert after[10][0] < 320


def test_an_imitation_gradient_that_doubles_every_50_batches_is_followed() -> None:
    """The distance of the mean from a ramp of slope a per measurement tends to a / 0.3 before a measurement and
    0.7 a / 0.3 after it: with 11 batches between measurements a = 11 / 50 ln 2, so the ratio is between 1.43 and 1.66.
    """
    weight = AutoWeight(Auto(fraction=1.0), 0)
    drive(weight, 400, lambda batch: (1.0, 2 ** (batch / 50)))
    ratio = float(weight.value()) * 2 ** (400 / 50)
    assert 1.35 < ratio < 2 ** (0.22 / 0.3)


def test_one_measurement_in_many_moves_the_mean_by_three_tenths() -> None:
    weight = AutoWeight(Auto(fraction=1.0), start_step=0)
    for _ in range(FIRST):
        weight.update(torch.tensor(1.0), torch.tensor(1.0))
    weight.update(torch.tensor(1000.0), torch.tensor(1.0))
    assert float(weight.value()) == pytest.approx(1000**0.3, rel=1e-4)
    assert float(weight.last()) == pytest.approx(1000, rel=1e-4)


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

    rule = Auto(fraction=1.0, warmup=0, every=1)
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
        super().__init__("heads", Auto(fraction=1.0, warmup=2))

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


EMPTY = [toy_target(), toy_target()]


def in_one_of_ten(batch: int) -> bool:
    return batch % 10 == 3


def train_adapters(has_objects: Callable[[int], bool], batches: int, rule: Auto) -> tuple[Distiller, list[float]]:
    """The adapters alone under SGD, which a batch without objects leaves as they are; the weight after each batch."""
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(rule))
    optimizer = torch.optim.SGD(distiller.terms.parameters(), lr=0.1)
    weights = []
    for batch in range(batches):
        images, targets = toy_batch()
        losses = distiller(images, targets if has_objects(batch) else EMPTY)
        losses["fgfi"].backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.append(distiller.weights()["fgfi"])
    return distiller, weights


def test_batches_without_objects_count_neither_in_the_warm_up_nor_after() -> None:
    """Objects in one batch of ten: the same weights, batch for batch with objects, as without the empty ones."""
    rule = Auto(fraction=1.0, warmup=5)
    _, dense = train_adapters(lambda batch: True, 15, rule)
    distiller, sparse = train_adapters(in_one_of_ten, 150, rule)
    assert dense[4] == 0 and dense[5] > 0
    assert [weight for batch, weight in enumerate(sparse) if in_one_of_ten(batch)] == dense
    assert int(distiller.terms[0].auto.measurements) == FIRST
    assert sparse[43] == 0 and sparse[52] == 0 and sparse[53] > 0


def test_a_resumed_run_decides_as_one_that_was_not_interrupted() -> None:
    """Between two looks too: what the host knows is in the state, not only the counts."""

    def empty(batch: int) -> bool:
        return batch in (1, 2, 4, 7, 9, 12)

    def onwards(distiller: Distiller, batches: Sequence[int]) -> list[Tensor]:
        images, targets = toy_batch()
        return [distiller(images, EMPTY if empty(batch) else targets)["fgfi"].detach() for batch in batches]

    whole = automatic(warmup=3, every=3)
    expected = onwards(whole, range(44))
    for stop in range(1, 36, 5):
        first, second = automatic(warmup=3, every=3), automatic(warmup=3, every=3)
        onwards(first, range(stop))
        second.load_state_dict(first.state_dict())
        assert torch.equal(torch.stack(onwards(second, range(stop, 44))), torch.stack(expected[stop:])), stop
        assert second.weights() == whole.weights() and second.last_gradient_ratios() == whole.last_gradient_ratios()


@pytest.mark.parametrize("batches", [1, 2, 6, 30])
def test_a_state_without_the_hosts_part_is_taken(batches: int) -> None:
    """As older versions wrote it: the warm-up is over after its batches, and the ratio goes on."""
    before, after = automatic(), automatic()
    for _ in range(batches):
        before(*toy_batch())
    new = ("auto._extra_state", "auto.log_last", "auto.warmed", "monitor._extra_state", "monitor.log_last")
    after.load_state_dict({key: value for key, value in before.state_dict().items() if not key.endswith(new)})
    assert after.weights() == before.weights()
    after(*toy_batch())
    assert (after.weights()["fgfi"] > 0) == (batches >= 2)


class Unread(nn.Module):
    """A student whose losses do not read the imitated features."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(0)
        self.classes, self.levels, self.network = self.inner.classes, self.inner.levels, self.inner

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        self.inner.neck(images)
        return {"loss": self.inner.heads["fine"].weight.square().sum()}

    def predict(self, images: Tensor) -> list[object]:
        return self.inner.predict(images)


def heard(student: nn.Module, objects: bool, batches: int) -> list[str]:
    distiller = Distiller(student, seeded(1, 6), FGFI(Auto(fraction=1.0, warmup=3), init_std=0.1))
    optimiser = torch.optim.SGD(distiller.parameters(), lr=1e-9)
    images, targets = toy_batch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(batches):
            torch.stack(list(distiller(images, targets if objects else EMPTY).values())).sum().backward()
            optimiser.step()
    return [str(warning.message) for warning in caught]


def test_a_weight_that_stays_0_is_reported_once() -> None:
    (said,) = heard(seeded(0), False, 250)
    assert said.startswith("fgfi distils nothing: after 100 batches its automatic weight is still 0; its loss was 0")
    (said,) = heard(Unread(), True, 250)
    assert "the detection loss has no gradient" in said and "give the weight as a number" in said
    assert heard(Unread(), True, 100) == [] == heard(seeded(0), True, 150)


def test_an_automatic_weight_stays_below_the_largest_that_makes_sense() -> None:
    """Above 1 / (1 - mu) more than all of the hard labels would be taken away."""
    assert Chen2017(mu=0.75).max_weight == 4 and Chen2017(mu=1.0).max_weight == math.inf
    for method, expected in ((Chen2017("auto", mu=0.75), 4.0), (Chen2017("auto", mu=1.0), 50.0), (FGFI(), 50.0)):
        weight = AutoWeight(Auto(fraction=1.0, warmup=0), 0, method.max_weight)
        drive(weight, 30, lambda batch: (50.0, 1.0))
        assert float(weight.value()) == pytest.approx(expected)
    with pytest.raises(EyasError, match="cannot exceed 1"):
        Chen2017(4.01, mu=0.75)


def test_the_ratio_of_the_last_measured_batch_is_known_beside_the_mean() -> None:
    distiller = automatic(warmup=0)
    images, targets = toy_batch()
    assert distiller.last_gradient_ratios() == {}
    distiller(images, targets)
    assert distiller.last_gradient_ratios() == distiller.gradient_ratios() == {"fgfi": pytest.approx(0.5, rel=1e-4)}
    distiller(images / 2, targets)
    assert distiller.last_gradient_ratios() != distiller.gradient_ratios()
