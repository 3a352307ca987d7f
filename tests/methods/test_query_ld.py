"""Localisation distillation on queries: mass at other places, the divergence, and D-FINE as its own teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import eyas
from eyas.detectors import TransformersDetector
from eyas.methods.ld import localisation_loss
from eyas.methods.query_ld import QueryLD, at_places, side_divergence
from eyas.types import EyasError, SideDistributions, Target, View
from helpers.output_cases import view
from helpers.tiny_transformers import random_model


def test_mass_at_other_places_by_hand() -> None:
    """Place 2.5 lies a quarter of the way from 2 to 4; -1 and 9 lie beyond the ends."""
    others = torch.tensor([0.0, 1, 2, 4])
    found = at_places(torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([-1.0, 2.5, 4.0, 9.0]), others)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.0, 0.3, 0.1 + 0.2 + 0.3]))


def test_mass_and_mean_place_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(5, 4, 33, generator=generator).softmax(-1)
    others = torch.rand(5, 4, 33, generator=generator).cumsum(-1)
    inside = others[..., :1] + torch.rand(5, 4, 33, generator=generator) * (others[..., -1:] - others[..., :1])
    found = at_places(mass, inside, others)
    torch.testing.assert_close(found.sum(-1), mass.sum(-1))
    torch.testing.assert_close((found * others).sum(-1), (mass * inside).sum(-1))
    torch.testing.assert_close(at_places(mass, others, others), mass)
    flat = torch.zeros(1, 1, 3)  # a draft box without width
    assert at_places(torch.full((1, 1, 3), 1 / 3), flat, flat).sum() == pytest.approx(1)


def sides(seed: int, layers: int = 2, draft: float = 20.0, bins: int = 5) -> SideDistributions:
    """Two images of three queries each, whose drafts are squares about (50, 50)."""
    logits = torch.randn(layers, 2, 3, 4, bins, generator=torch.Generator().manual_seed(seed))
    moves = torch.linspace(-0.3, 0.5, bins) * draft + draft / 2
    return SideDistributions(logits, (50 + torch.tensor([-1.0, -1, 1, 1])[:, None] * moves).expand_as(logits))


def test_with_equal_drafts_it_is_localisation_distillation() -> None:
    student, teacher = sides(0), sides(1, layers=1)
    found = side_divergence(student, teacher, 3.0)
    expected = [
        localisation_loss(row[None], other[None], torch.ones(1), 3.0)
        for row, other in zip(
            student.logits.flatten(0, 2), teacher.logits.expand_as(student.logits).flatten(0, 2), strict=True
        )
    ]
    torch.testing.assert_close(found.flatten(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert float(side_divergence(student, student, 3.0).abs().amax()) < 1e-5


def test_a_teacher_with_another_draft_and_the_same_box_agrees() -> None:
    """Both are sure of one place, 62 for the right and the bottom, 38 for the left and the top: bin 2 of a draft of 20,
    and bin 1 of one of 30."""
    student, teacher = sides(0, layers=1), sides(0, layers=1, draft=30.0)
    one = 40 * torch.nn.functional.one_hot(torch.tensor(2), 5).float()
    assert student.places[0, 0, 0, :, 2].tolist() == pytest.approx([38, 38, 62, 62])
    assert teacher.places[0, 0, 0, :, 1].tolist() == pytest.approx([38, 38, 62, 62])
    same = side_divergence(
        replace(student, logits=one.expand_as(student.logits)),
        replace(teacher, logits=one.roll(-1).expand_as(teacher.logits)),
        1.0,
    )
    other = side_divergence(
        replace(student, logits=one.expand_as(student.logits)),
        replace(teacher, logits=one.expand_as(teacher.logits)),
        1.0,
    )
    assert float(same.abs().amax()) < 1e-4 and float(other.amin()) > 1


SIZE = (64, 96)


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))


def targets() -> list[Target]:
    none: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [{"boxes": torch.tensor([[5.0, 6, 45, 50]]), "labels": torch.tensor([0])}, none]


def dfine() -> TransformersDetector:
    return TransformersDetector(copy.deepcopy(random_model("DFineForObjectDetection")))


def test_dfine_learns_the_distributions_of_its_teacher() -> None:
    student, teacher = dfine(), dfine()
    with torch.no_grad():
        for parameter in teacher.network.class_embed.parameters():
            parameter.add_(0.3)
        for parameter in teacher.network.bbox_embed.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 10)
    distiller = eyas.Distiller(student, teacher, QueryLD(weight=1.0)).train()
    losses = distiller(images(), targets())
    losses["query_ld"].backward()
    network: Any = student.network
    assert float(losses["query_ld"].detach()) > 0
    assert all(bool(layer.layers[-1].weight.grad.any()) for layer in network.bbox_embed)
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn_in_the_last_layer() -> None:
    teacher, method = dfine().eval(), QueryLD(weight=1.0)
    with teacher.decoding() as decoder:
        teacher.predict(images())
    student: Any = SimpleNamespace(answer=lambda points: decoder.own)
    method(replace(view(), decoder=student), replace(view(), decoder=decoder), targets())
    assert abs(float(method.parts["layer 1"])) < 1e-5 < float(method.parts["layer 0"])


def test_what_is_refused() -> None:
    with pytest.raises(EyasError, match="the student has no queries to compare"):
        QueryLD()(view(), view(), [])
    with pytest.raises(EyasError, match="QueryLD: temperature must be positive"):
        QueryLD(temperature=0.0)
    rtdetr = TransformersDetector(random_model("RTDetrForObjectDetection")).eval()
    with torch.no_grad(), rtdetr.decoding() as decoder:
        rtdetr.predict(images())
    shown: View = replace(view(), decoder=decoder)
    with pytest.raises(EyasError, match="need distributions of box sides over as many bins"):
        QueryLD()(shown, shown, [])
