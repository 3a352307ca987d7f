"""The distiller: what it trains and what it does not, pairing, start, state, balance, random numbers."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyas.distillation.distiller import Distiller
from eyas.distillation.pairing import pair_levels
from eyas.distillation.teachers import RunningTeacher
from eyas.methods import FGFI, PKD, Auto, Chen2017, FitNets, LevelPair, Method, Schedule, Vanilla
from eyas.ops.pixels import FILL, as_float, padded_batch
from eyas.types import EyasError, Level, View
from helpers.method_pairs import make
from helpers.toys import ToyDetector, relative, seeded, toy_batch, toy_target


def distilled(*, student_norm: bool = False, weight: float = 1.0, start_step: int = 0) -> Distiller:
    """Adapters of a size that lets a gradient through."""
    method = FGFI(weight, init_std=0.1, schedule=Schedule(start_step))
    return Distiller(seeded(0, norm=student_norm), seeded(1, 6, norm=True), method)


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    losses = module(*toy_batch())
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


# --- what is trained ---


def test_adapters_exist_before_any_optimiser_and_train() -> None:
    """An earlier port made its adapter in the first forward, after the optimiser, and never trained it."""
    distiller = distilled()
    adapters = {name for name, _ in distiller.named_parameters() if "adapters" in name}
    assert len(adapters) == 4  # a weight and a bias on each of two levels
    before = {name: parameter.detach().clone() for name, parameter in distiller.named_parameters()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    step(distiller, optimizer)
    after = dict(distiller.named_parameters())
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_training_lowers_the_imitation_loss() -> None:
    distiller = distilled(weight=10.0)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.02)
    values = [step(distiller, optimizer)["fgfi"] for _ in range(15)]
    assert values[-1] < 0.8 * values[0]


def test_losses_are_the_students_and_the_methods() -> None:
    distiller = distilled(weight=0.3)
    images, targets = toy_batch()
    losses = distiller(images, targets)
    plain = distiller.student.losses(images, targets)
    assert list(losses) == ["loss_fine", "loss_coarse", "fgfi"]
    assert all(torch.equal(losses[name], plain[name]) for name in plain)
    student = View(list(distiller.student.neck(images).values()), list(distiller.student.levels.values()), (64, 96))
    teacher = View(
        list(distiller.teacher.detector.neck(images).values()),
        list(distiller.teacher.detector.levels.values()),
        (64, 96),
    )
    assert torch.equal(losses["fgfi"], 0.3 * distiller.methods[0](student, teacher, targets))


def test_without_methods_it_is_the_plain_student() -> None:
    images, targets = toy_batch()
    distiller = Distiller(seeded(0), seeded(1, 6))
    teacher_passes = distiller.teacher.detector.predictions
    losses, plain = distiller(images, targets), seeded(0).losses(images, targets)
    assert losses.keys() == plain.keys() and all(torch.equal(losses[name], plain[name]) for name in plain)
    assert distiller.teacher.detector.predictions == teacher_passes
    names = [f"student.{name}" for name, _ in seeded(0).named_parameters()]
    assert [name for name, _ in distiller.named_parameters()] == names


# --- the teacher stays outside ---


def test_the_teacher_has_gone_before_the_student_comes() -> None:
    """What it takes in memory is free again before the maps that stay for the backward pass are made."""
    distiller, order = distilled(), []
    for name, detector in (("student", distiller.student), ("teacher", distiller.teacher.detector)):
        next(detector.network.children()).register_forward_hook(lambda *_, name=name: order.append(name))
    distiller(*toy_batch())
    assert order == ["teacher", "student"]


def test_teacher_is_in_neither_parameters_nor_state() -> None:
    distiller = distilled()
    parts = {name.split(".")[0] for name in distiller.state_dict()}
    assert parts == {"student", "terms", "_extra_state"}
    theirs = {id(parameter) for parameter in distiller.teacher.detector.parameters()}
    assert theirs.isdisjoint(id(parameter) for parameter in distiller.parameters())
    assert distiller.teacher.detector not in list(distiller.modules())


def test_teacher_is_frozen_and_its_statistics_stay() -> None:
    distiller = distilled()
    teacher = distiller.teacher.detector
    before = copy.deepcopy(teacher.state_dict())
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    distiller.train()
    assert not any(module.training for module in teacher.modules())
    step(distiller, optimizer)
    teacher.train()  # as code that scores it may leave it
    step(distiller, optimizer)
    assert before and all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())


def test_teacher_follows_to() -> None:
    distiller = distilled().to(torch.float64)
    assert {p.dtype for p in distiller.teacher.detector.parameters()} == {torch.float64}
    images, targets = toy_batch()
    assert distiller(images.double(), targets)["fgfi"] > 0
    assert {p.device.type for p in distiller.to("meta").teacher.detector.parameters()} == {"meta"}


def test_everything_is_made_where_the_student_is() -> None:
    """A user's student may be on its device already."""
    student, teacher = seeded(0).double(), seeded(1, 6)
    distiller = Distiller(student, teacher, FGFI())
    assert {p.device for p in distiller.parameters()} == {next(student.parameters()).device}


def test_construction_keeps_the_modes_of_the_students_modules() -> None:
    student = seeded(0, norm=True)
    student.neck.norm.eval()  # frozen statistics
    Distiller(student, seeded(1, 6), FGFI())
    assert student.training and student.neck.training and not student.neck.norm.training


# --- pairing ---


def test_pairs_by_stride() -> None:
    pairs = pair_levels(ToyDetector(strides=(16, 32)), RunningTeacher(ToyDetector(6)))
    assert [(pair.student_tap, pair.teacher_tap) for pair in pairs] == [("neck:fine", "neck:coarse")]
    pairs = pair_levels(ToyDetector(), RunningTeacher(ToyDetector(6)))
    names = ["neck:fine", "neck:coarse"]
    assert [(pair.student_tap, pair.teacher_tap) for pair in pairs] == list(zip(names, names, strict=True))
    assert [pair.rectified for pair in pairs] == [True, False]


def test_pairs_by_index_whatever_the_strides() -> None:
    pairs = pair_levels(ToyDetector(strides=(16, 32)), RunningTeacher(ToyDetector(6)), "index")
    names = ["neck:fine", "neck:coarse"]
    assert [(pair.student_tap, pair.teacher_tap) for pair in pairs] == list(zip(names, names, strict=True))
    assert [pair.step for pair in pairs] == [0.5, 0.5]


def test_names_override_and_other_sizes_are_resized() -> None:
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(1.0, init_std=0.1), pairs={"neck:coarse": "neck:fine"})
    assert [(p.student_tap, p.teacher_tap) for p in distiller.pairs] == [("neck:coarse", "neck:fine")]
    (adapter,) = distiller.methods[0].adapters
    assert adapter.conv.weight.shape == (6, 8, 3, 3) and adapter.rectified
    losses = distiller(*toy_batch())
    (gradient,) = torch.autograd.grad(losses["fgfi"], [distiller.student.neck.coarse.weight])
    assert losses["fgfi"] > 0 and gradient.any()


@pytest.mark.parametrize(
    ("strides", "pairs", "problem"),
    [
        ((4, 32), None, "no level of the student has the stride"),
        ((8, 16), {"neck:fine": "neck:p5"}, "no level is called neck:p5"),
        ((8, 16), {"neck:p3": "neck:fine"}, "no level is called neck:p3"),
    ],
)
def test_unpaired_levels_are_listed(strides: tuple[int, int], pairs: dict[str, str] | None, problem: str) -> None:
    with pytest.raises(EyasError) as caught:
        Distiller(ToyDetector(strides=strides), ToyDetector(6), FGFI(), pairs=pairs)
    message = str(caught.value)
    assert problem in message
    assert f"student: neck:fine (stride {strides[0]}, 4 channels), neck:coarse (stride {strides[1]}, 8 chan" in message
    assert "teacher: neck:fine (stride 8, 6 channels), neck:coarse (stride 16, 12 channels)" in message


def test_levels_must_be_what_they_declare() -> None:
    teacher = ToyDetector(6)
    teacher.levels["neck:fine"] = Level(7, 8)
    with pytest.raises(EyasError, match=r"'neck:fine' of the teacher is \(1, 6, 16, 20\), not \(1, 7"):
        pair_levels(ToyDetector(), RunningTeacher(teacher))


class Clash(Method):
    """Its loss has the name of one of the student's."""

    def __init__(self) -> None:
        super().__init__("loss_fine", 1.0)

    def forward(self, student: View, teacher: View, targets: object) -> Tensor:
        return student.features[0].sum()


def test_the_weight_is_a_factor() -> None:
    light, heavy = (Distiller(seeded(0), seeded(1, 6), FGFI(weight))(*toy_batch())["fgfi"] for weight in (0.01, 0.02))
    assert light > 0
    torch.testing.assert_close(heavy, 2 * light)


def test_names_are_used_once() -> None:
    with pytest.raises(EyasError, match="a name of its own, got fgfi, fgfi"):
        Distiller(ToyDetector(), ToyDetector(6), FGFI(), FGFI(0.1))
    with pytest.raises(EyasError, match="two losses are called loss_fine"):
        Distiller(ToyDetector(), ToyDetector(6), Clash())(*toy_batch())
    with pytest.raises(EyasError, match="two losses are called loss_fine"):  # before a training, too
        Distiller(ToyDetector(), ToyDetector(6), Clash()).try_out(*toy_batch())


def test_student_and_teacher_must_be_two_and_trainable() -> None:
    student = ToyDetector()
    with pytest.raises(EyasError, match=r"share the parameter neck\.fine\.weight"):
        Distiller(student, student, FGFI())
    other = ToyDetector(8)
    other.heads["fine"] = student.neck.fine
    with pytest.raises(EyasError, match=r"share the parameter neck\.fine\.weight.*copy\.deepcopy"):
        Distiller(student, other, FGFI())
    assert all(parameter.requires_grad for parameter in student.parameters())

    class Loose:
        network, classes, levels = student, student.classes, student.levels
        losses, predict = student.losses, student.predict

    with pytest.raises(EyasError, match=r"student must be a torch module.*Loose"):
        Distiller(Loose(), ToyDetector(6), FGFI())
    # A teacher need not be one.
    assert Distiller(ToyDetector(6), Loose(), FGFI()).teacher.detector.network is student


# --- batches ---


def test_images_of_several_sizes_are_padded() -> None:
    images = [torch.ones(3, 40, 33), torch.ones(3, 20, 64)]
    batch = padded_batch(images, 32)
    assert batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch[1, :, :20], images[1]) and torch.equal(batch[0, :, :40, :33], images[0])
    padding = torch.tensor(FILL)[:, None, None] / 255
    for part in (batch[0, :, 40:], batch[0, :, :, 33:], batch[1, :, 20:]):
        torch.testing.assert_close(part, padding.expand_as(part))


def test_a_list_of_images_is_its_padded_batch() -> None:
    distiller = distilled()
    _, targets = toy_batch()
    images = [torch.rand(3, 40, 90), torch.rand(3, 64, 50)]
    from_list, from_tensor = distiller(images, targets), distiller(padded_batch(images, 32), targets)
    assert all(torch.equal(from_list[name], from_tensor[name]) for name in from_tensor)
    seen: list[object] = []
    distiller.student.head_losses = lambda maps, given: (
        seen.extend(t["size"] for t in given) or {"loss": maps["fine"].sum()}
    )
    distiller(images, targets)
    assert seen == [(40, 90), (64, 50)] and "size" not in targets[0]


def test_images_of_8_bits_are_what_they_are_as_floats() -> None:
    distiller = distilled()
    images, targets = toy_batch()
    pixels = (255 * images).to(torch.uint8)
    from_bytes, from_floats = distiller(pixels, targets), distiller(as_float(pixels), targets)
    assert all(torch.equal(from_bytes[name], from_floats[name]) for name in from_floats)
    from_list = distiller(list(pixels), targets)
    assert all(torch.equal(from_list[name], from_floats[name]) for name in from_floats)


def test_a_batch_without_boxes_trains_the_student_alone() -> None:
    distiller = distilled()
    losses = distiller(toy_batch()[0], [toy_target(), toy_target()])
    assert losses["fgfi"] == 0
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in distiller.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == name.startswith("student"), name


# --- start and state ---


def test_before_its_start_the_teacher_rests_and_adapters_get_zeros() -> None:
    distiller = distilled(start_step=2)
    probes = distiller.teacher.detector.predictions
    batch = toy_batch()
    for _ in range(2):
        losses = distiller(*batch)
        assert losses["fgfi"] == 0 and distiller.teacher.detector.predictions == probes
        torch.stack(list(losses.values())).sum().backward()
        # DDP waits for a gradient of every parameter.
        assert all(p.grad is not None and not p.grad.any() for p in distiller.terms.parameters())
    assert distiller(*batch)["fgfi"] > 0 and distiller.teacher.detector.predictions == probes + 1


def test_batches_in_evaluation_mode_are_not_counted() -> None:
    distiller = distilled(start_step=1).eval()
    assert [float(distiller(*toy_batch())["fgfi"].detach()) for _ in range(3)] == [0.0, 0.0, 0.0]
    distiller.train()(*toy_batch())
    assert distiller.eval()(*toy_batch())["fgfi"] > 0


def test_state_goes_through_a_file(tmp_path: Path) -> None:
    distiller = distilled(start_step=2)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    for _ in range(2):
        step(distiller, optimizer)
    torch.save(distiller.state_dict(), tmp_path / "state.pt")
    again = distilled(start_step=2)
    assert again(*toy_batch())["fgfi"] == 0
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    losses, expected = again(*toy_batch()), distiller(*toy_batch())
    assert expected["fgfi"] > 0
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


# --- random numbers ---


class Noisy(Method):
    """A user's method that draws from the default generator as any torch layer does."""

    def __init__(self) -> None:
        super().__init__("noisy", 1.0)

    def setup(self, pairs: tuple[LevelPair, ...]) -> None:
        self.scale = nn.Parameter(torch.randn(len(pairs)))

    def forward(self, student: View, teacher: View, targets: object) -> Tensor:
        return 0.0 * self.scale.sum()


def train(make: str) -> tuple[list[dict[str, float]], dict[str, Tensor], Tensor]:
    """From one global seed: a student with dropout, the distiller around it or not, then the training."""
    teacher = seeded(1, 6, norm=True)
    torch.manual_seed(5)
    module: nn.Module = ToyDetector(dropout=0.5)
    student = module
    if make == "distilled":
        module = Distiller(student, teacher, FGFI(weight=0.0), Noisy())
    else:
        module.forward = module.losses
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = [step(module, optimizer) for _ in range(3)]
    return losses, student.state_dict(), torch.rand(3)


def test_a_distiller_does_not_change_the_students_random_numbers() -> None:
    """Plain and distilled runs of one seed differ by the imitation loss alone: here its weight is 0."""
    (plain, plain_state, plain_next), (ours, our_state, our_next) = train("plain"), train("distilled")
    assert [{name: losses[name] for name in plain[0]} for losses in ours] == plain
    assert all(torch.equal(our_state[name], value) for name, value in plain_state.items())
    assert torch.equal(our_next, plain_next)
    assert plain[0] != plain[1]


def test_adapters_start_from_the_distillers_seed_alone() -> None:
    def weight(global_seed: int, **seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        return Distiller(ToyDetector(), ToyDetector(6), FGFI(), **seed).methods[0].adapters[0].conv.weight

    assert torch.equal(weight(1), weight(2)) and torch.equal(weight(1, seed=3), weight(2, seed=3))
    assert not torch.equal(weight(1), weight(1, seed=3))


# --- balance ---


def test_balance_is_what_autograd_says_by_hand() -> None:
    distiller = distilled(weight=0.2)
    images, targets = toy_batch()
    balance = distiller.balance(images, targets)

    student, teacher, method = distiller.student, distiller.teacher.detector, distiller.methods[0]
    features = student.neck(images)
    detection = sum(student.head_losses(features, targets).values())
    guide = teacher.neck(images)
    view = View(list(guide.values()), list(teacher.levels.values()), (64, 96))
    masks = method.masks(view, targets)
    total = sum(
        ((adapter(f) - t).square().sum(1) * mask).sum()
        for adapter, f, t, mask in zip(method.adapters, features.values(), guide.values(), masks, strict=True)
    )
    imitation = 0.2 * total / (2 * sum(mask.sum() for mask in masks))

    def norm(loss: Tensor) -> float:
        gradients = torch.autograd.grad(loss, list(features.values()), retain_graph=True)
        return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    assert balance.detection == pytest.approx(float(detection.detach()), rel=1e-5)
    assert balance.detection_gradient == {"fgfi": pytest.approx(norm(detection), rel=1e-5)}
    assert balance.imitation == {"fgfi": pytest.approx(float(imitation.detach()), rel=1e-5)}
    assert balance.imitation_gradient == {"fgfi": pytest.approx(norm(imitation), rel=1e-5)}
    assert balance.gradient_ratio() == {"fgfi": pytest.approx(norm(imitation) / norm(detection), rel=1e-5)}


def test_a_ratio_is_that_at_the_levels_which_the_method_compares() -> None:
    """The coarser level has nothing of this method, and its detection gradient does not count."""
    methods = [PKD(weight, finest=finest, name=name) for weight, finest, name in ((1.0, 1, "one"), (1.0, None, "all"))]
    distiller = Distiller(seeded(0), seeded(1, 6), *methods)
    images, targets = toy_batch()
    student = distiller.student
    features = student.neck(images)
    detection = sum(student.head_losses(features, targets).values())
    fine, coarse = (float(g.norm()) for g in torch.autograd.grad(detection, list(features.values())))
    balance = distiller.balance(images, targets)
    assert min(fine, coarse) > 0.01 * max(fine, coarse)
    norms = {"one": pytest.approx(fine, rel=1e-5), "all": pytest.approx(math.hypot(fine, coarse), rel=1e-5)}
    assert balance.detection_gradient == norms
    for _ in range(12):
        distiller(images, targets)
    measured = distiller.last_gradient_ratios()
    for name, ratio in balance.gradient_ratio().items():
        assert measured[name] == pytest.approx(ratio, rel=1e-4)


def test_balance_leaves_nothing_behind() -> None:
    distiller = Distiller(
        seeded(0, norm=True, dropout=0.5), seeded(1, 6, norm=True), FGFI(init_std=0.1, schedule=Schedule(1))
    )
    before, random_state = copy.deepcopy(distiller.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        balance = distiller.balance(*toy_batch())
    assert balance.imitation["fgfi"] > 0 and balance.imitation_gradient["fgfi"] > 0  # whatever its start
    after = distiller.state_dict()
    assert after.pop("_extra_state") == before.pop("_extra_state") == {"batches": 0, "methods": ["fgfi"]}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(parameter.grad is None for parameter in distiller.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert distiller.training


def test_balance_of_a_batch_without_boxes_is_zero() -> None:
    balance = distilled().balance(toy_batch()[0], [toy_target(), toy_target()])
    assert balance.imitation == {"fgfi": 0.0} and balance.gradient_ratio() == {"fgfi": 0.0}


def test_gradients_of_the_imitation_reach_the_student() -> None:
    distiller = distilled()
    imitation = distiller(*toy_batch())["fgfi"]
    named = dict(distiller.student.neck.named_parameters())
    gradients = torch.autograd.grad(imitation, list(named.values()))
    assert all(gradient.any() for gradient in gradients), list(named)
    assert relative(imitation, distilled()(*toy_batch())["fgfi"]) == 0


def test_a_state_from_before_there_were_terms_is_loaded() -> None:
    """Runs that were stopped by an earlier version go on: adapters, automatic weights and monitors had other names."""

    def made(seed: int) -> Distiller:
        return Distiller(seeded(seed), seeded(1, 6), FGFI(Auto(warmup=0)), FitNets(0.5), seed=seed)

    distiller, again = made(0), made(2)
    distiller(*toy_batch())
    state = distiller.state_dict()
    names = {0: "fgfi", 1: "fitnets"}
    before = {}
    for key, value in state.items():
        for index, name in names.items():
            key = key.replace(f"terms.{index}.method.", f"methods.{index}.")
            key = key.replace(f"terms.{index}.auto.", f"followed.{name}.")
            key = key.replace(f"terms.{index}.monitor.", f"watched.{name}.")
        before[key] = value
    assert not any(key.startswith("terms.") for key in before)
    assert {key.split(".")[0] for key in before} == {"student", "methods", "followed", "watched", "_extra_state"}
    again.load_state_dict(before)
    loaded = again.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state if key != "_extra_state")
    assert loaded["_extra_state"] == state["_extra_state"]
    assert state["_extra_state"]["batches"] == 1
    assert int(again.terms[0].auto.measurements) == 1


@pytest.mark.parametrize("weight", ["Auto", "0.1", math.nan, None])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(EyasError, match=r'FGFI: weight is a finite number from 0, "auto" or Auto'):
        FGFI(weight)


def test_pairs_of_another_word_are_refused() -> None:
    with pytest.raises(EyasError, match=r'pairs is "index" or maps levels.* got .stride.'):
        Distiller(seeded(0), seeded(1, 6), FGFI(0.1), pairs="stride")  # type: ignore[arg-type]


def test_the_teacher_scores_the_heads_that_methods_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposal networks with other anchors are then no reason to refuse a pair of second stages."""
    student, teacher = make("faster_rcnn", 0), make("faster_rcnn", 1)
    asked: list[list[str]] = []
    score_boxes = type(teacher).score_boxes

    def spy(self: Any, images: Tensor, boxes: Any, **more: Any) -> Any:
        asked.append(list(boxes))
        return score_boxes(self, images, boxes, **more)

    monkeypatch.setattr(type(teacher), "score_boxes", spy)
    batch = torch.rand(1, 3, 64, 96), [toy_target((10, 12, 50, 40))]
    Distiller(student, teacher, Vanilla(1.0, heads=["roi"]))(*batch)
    Distiller(student, teacher, Vanilla(1.0, heads=["roi"]), Chen2017(heads=["rpn"]))(*batch)
    Distiller(student, teacher, Vanilla(1.0))(*batch)
    assert asked == [["roi"], ["rpn", "roi"], ["rpn", "roi"]]
