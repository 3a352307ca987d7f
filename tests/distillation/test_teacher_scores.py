"""Scores of the teacher's cells, for a student without heads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from eyas.distillation.distiller import Distiller
from eyas.methods import Method
from eyas.types import EyasError, Target, View
from helpers.toys import ScoringToy, seeded, toy_batch


class Weighted(Method):
    """Squares of the student's channels, weighted by the teacher's scores."""

    reads = frozenset({"teacher_scores"})

    def forward(self, student: View, teacher: View, targets: Sequence[Target]) -> Tensor:
        assert not student.scores and not teacher.heads
        pairs = zip(student.features, teacher.scores, strict=True)
        return torch.stack([(scores * feature.square().mean(1)).sum() for feature, scores in pairs]).sum()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_student_without_heads_is_weighted_by_the_teachers_scores(scale: float) -> None:
    torch.manual_seed(5)
    teacher = ScoringToy()
    pairs = {"neck:coarse": "neck:coarse"} if scale == 1 else {"neck:fine": "neck:coarse"}
    student, (images, targets) = seeded(0), toy_batch()
    distiller = Distiller(student, teacher, Weighted("weighted", 1.0), pairs=pairs, teacher_scale=scale)
    loss = distiller(images, targets)["weighted"]
    with torch.no_grad():
        coarse = teacher.neck(images)["coarse"]
        small = (
            images
            if scale == 1
            else torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        )
        own = student.neck(small)["coarse" if scale == 1 else "fine"]
        expected = ((coarse.mean(1) > coarse.mean()) * own.square().mean(1)).sum()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert student.neck.fine.weight.grad is not None and bool(student.neck.fine.weight.grad.any())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_what_cannot_be_scored_is_refused() -> None:
    torch.manual_seed(5)
    teacher = ScoringToy()
    teacher.scored = ("neck:coarse",)
    distiller = Distiller(seeded(0), teacher, Weighted("weighted", 1.0))
    with pytest.raises(EyasError, match=r"the cells of neck:fine by the teacher's scores, .* those of neck:coarse"):
        distiller(*toy_batch())
    distiller = Distiller(seeded(0), seeded(1), Weighted("weighted", 1.0))
    with pytest.raises(EyasError, match="the teacher, a ToyDetector, gives no head outputs"):
        distiller(*toy_batch())
