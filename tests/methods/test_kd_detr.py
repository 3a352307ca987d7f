"""KD-DETR: the weighted loss of consistent points, the points that it draws, and real decoders."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eyas
from eyas import D3ETR, KDDETR, DETRDistill
from eyas.detectors import TransformersDetector
from eyas.methods.kd_detr import consistent_point_losses
from eyas.methods.queries import Factors, row_losses
from eyas.methods.vanilla import kl_softmax_rows
from eyas.types import EyasError, Target
from helpers.query_cases import IMAGE, GivenDecoder, query_view, random_output, trained
from helpers.tiny_transformers import random_model
from helpers.toys import ToyDetector

FACTORS = Factors(2.0, 5.0, 2.0)


def test_the_divergence_by_hand() -> None:
    """Two classes: logits 0, 0 against log 3, 0 at T = 1."""
    teacher = torch.tensor([1.0986123, 0.0])
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    torch.testing.assert_close(kl_softmax_rows(torch.zeros(2), teacher, 1.0), expected)
    assert kl_softmax_rows(torch.tensor([5.0, 5]), torch.zeros(2), 10.0) == 0  # a constant changes no softmax


def test_at_a_high_temperature_it_is_half_the_variance_of_the_difference() -> None:
    student, teacher = (random_output(seed).logits.double() for seed in (1, 2))
    wanted = (teacher - student).var(-1, unbiased=False) / 2
    torch.testing.assert_close(kl_softmax_rows(student, teacher, 1e4), wanted, rtol=1e-3, atol=1e-6)


def test_the_loss_in_double_precision() -> None:
    """Weights sum to 1 in each image, images are averaged, layers summed."""
    student, teacher = random_output(1), random_output(2)
    s, t = (output.logits.double() / 10 for output in (student, teacher))
    classes = 100 * (t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum(-1)
    boxes = row_losses(student, teacher, IMAGE, Factors(0.0, 5.0, 2.0)).double()
    weights = teacher.logits.double().sigmoid().amax(-1)
    images = ((2 * classes + boxes) * weights).sum(-1) / weights.sum(-1)
    found = consistent_point_losses(student, teacher, IMAGE, FACTORS)
    torch.testing.assert_close(found.double(), images.mean(-1), rtol=1e-5, atol=1e-6)


def test_a_query_that_the_teacher_is_not_sure_of_does_not_count() -> None:
    student, teacher = random_output(1), random_output(2)
    teacher.logits[:, :, 1:] = -60.0
    first = [replace(o, logits=o.logits[:, :, :1], boxes=o.boxes[:, :, :1]) for o in (student, teacher)]
    torch.testing.assert_close(
        consistent_point_losses(student, teacher, IMAGE, FACTORS),
        consistent_point_losses(first[0], first[1], IMAGE, FACTORS),
    )
    teacher.logits[:] = -200.0  # sure of nothing at all: probabilities of 0
    assert consistent_point_losses(student, teacher, IMAGE, FACTORS).isfinite().all()


def test_both_sets_of_queries_are_added() -> None:
    own, taught, answers, drawn, taught_drawn = (random_output(seed) for seed in range(5))
    learning = GivenDecoder(own, to_points=answers, to_drawn=drawn)
    teaching = GivenDecoder(taught, to_drawn=taught_drawn)
    loss = KDDETR(points=5)(query_view(learning), query_view(teaching), [])
    expected = [
        consistent_point_losses(*pair, IMAGE, Factors()).sum() for pair in ((answers, taught), (drawn, taught_drawn))
    ]
    torch.testing.assert_close(loss, sum(expected))
    specific = KDDETR(points=0)(query_view(learning), query_view(teaching), [])
    torch.testing.assert_close(specific, expected[0])
    assert len(teaching.asked) == 1
    certain = KDDETR(points=0, class_term="bce")(query_view(learning), query_view(teaching), [])
    torch.testing.assert_close(certain, consistent_point_losses(answers, taught, IMAGE, Factors(), None).sum())


def test_random_queries_depend_on_the_number_of_the_batch_alone() -> None:
    """A run that is resumed at batch 7 draws what an uninterrupted one draws there."""

    def asked(batch: int) -> Tensor:
        decoder = GivenDecoder(random_output(1), to_points=random_output(2), to_drawn=random_output(3))
        KDDETR(points=4)(query_view(decoder, batch), query_view(decoder, batch), [])
        return decoder.asked[1]

    torch.manual_seed(1)
    first = asked(7)
    torch.rand(3)
    assert first.equal(asked(7)) and not first.equal(asked(8))
    state = torch.get_rng_state()
    asked(7)
    assert torch.get_rng_state().equal(state)


def test_equal_answers_cost_nothing() -> None:
    output = trained(random_output(1))
    loss = consistent_point_losses(output, replace(random_output(1)), IMAGE, FACTORS).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert output.logits.grad is not None and output.logits.grad.abs().max() < 1e-6


def test_one_class_has_no_softmax_to_learn() -> None:
    """Its softmax is 1 whatever the score: the class term would be 0 without a word."""
    one = replace(random_output(1), logits=random_output(1).logits[..., :1], classes=("thing",))
    decoder = GivenDecoder(one, one, one)
    with pytest.raises(EyasError, match=r'only class, thing, is 1 .*class_term="bce"'):
        KDDETR()(query_view(decoder), query_view(decoder), [])
    KDDETR(class_weight=0.0)(query_view(decoder), query_view(decoder), [])
    assert KDDETR(class_term="bce")(query_view(decoder), query_view(decoder), []).isfinite()


def test_options() -> None:
    for options, rule in (
        ({"points": -1}, "points cannot be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"class_term": "mse"}, 'class_term is "kl" or "bce"'),
    ):
        with pytest.raises(EyasError, match=f"KDDETR: {rule}"):
            KDDETR(**options)


def make(family: str, seed: int) -> TransformersDetector:
    torch.manual_seed(seed)
    return TransformersDetector(random_model(f"{family}ForObjectDetection"))


def batch() -> tuple[Tensor, list[Target]]:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    some: Target = {"boxes": torch.tensor([[5.0, 6, 45, 50], [50, 10, 90, 40]]), "labels": torch.tensor([0, 2])}
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [some, none]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("RTDetr", "RTDetr"),
        pytest.param("DFine", "RTDetr", marks=pytest.mark.slow),
        pytest.param("DabDetr", "DFine", marks=pytest.mark.slow),
        pytest.param("DeformableDetr", "DeformableDetr", marks=pytest.mark.slow),
        pytest.param("LwDetr", "Deimv2", marks=pytest.mark.slow),
        pytest.param("Detr", "Detr", marks=pytest.mark.slow),
    ],
)
def test_two_detectors(student: str, teacher: str) -> None:
    """Every method in one distiller: gradients reach the student's taps and never the teacher."""
    methods = (DETRDistill(), D3ETR(weight=1.0), KDDETR(points=6))
    distiller = eyas.Distiller(make(student, 1), make(teacher, 2), *methods).train()
    ratios = distiller.balance(*batch()).gradient_ratio()
    assert all(0 < ratios[method.name] < float("inf") for method in methods)
    frozen = copy.deepcopy(distiller.teacher.networks[0].state_dict())
    losses = distiller(*batch())
    torch.stack(list(losses.values())).sum().backward()
    assert all(losses[method.name].isfinite() for method in methods) and losses["d3etr"] > 0
    assert all(p.grad is not None for p in distiller.student.parameters() if p.requires_grad)  # type: ignore[attr-defined]
    after = distiller.teacher.networks[0].state_dict()
    assert all(value.equal(after[name]) for name, value in frozen.items())
    assert all(parameter.grad is None for parameter in distiller.teacher.networks[0].parameters())


@pytest.mark.slow
def test_a_student_learns_the_answers() -> None:
    """Twelve steps of KD-DETR alone bring the student's answers to the teacher's queries nearer."""
    student, teacher = make("DabDetr", 1), make("DabDetr", 2)
    distiller = eyas.Distiller(student, teacher, KDDETR(weight=1.0, points=12, class_term="bce")).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = distiller(*batch())["kd_detr"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_a_resumed_run_draws_the_same_queries() -> None:
    student, teacher = make("DabDetr", 1), make("DabDetr", 2)
    first = eyas.Distiller(copy.deepcopy(student), teacher, KDDETR(weight=1.0, points=12)).train()
    for _ in range(2):
        first(*batch())
    resumed = eyas.Distiller(student, teacher, KDDETR(weight=1.0, points=12)).train()
    assert not resumed(*batch())["kd_detr"].equal(first(*batch())["kd_detr"])  # of its first batch
    resumed.load_state_dict(first.state_dict())
    assert resumed(*batch())["kd_detr"].equal(first(*batch())["kd_detr"])


def test_under_bfloat16() -> None:
    distiller = eyas.Distiller(
        make("RTDetr", 1), make("RTDetr", 2), DETRDistill(weight=1.0), KDDETR(weight=1.0)
    ).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(*batch())
    assert losses["detr_distill"].dtype == losses["kd_detr"].dtype == torch.float32
    assert losses["detr_distill"].isfinite() and losses["kd_detr"].isfinite()
    (losses["detr_distill"] + losses["kd_detr"]).backward()


def test_detectors_without_queries_are_refused() -> None:
    detr: Any = make("RTDetr", 1)
    target: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for student, teacher, role in ((ToyDetector(), detr, "student"), (detr, ToyDetector(), "teacher")):
        distiller = eyas.Distiller(student, teacher, DETRDistill(weight=1.0)).train()
        with pytest.raises(EyasError, match=f"the {role}, a ToyDetector, has no queries"):
            distiller(batch()[0], [target, target])
