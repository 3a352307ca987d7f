"""The distiller around the product's own detectors: one test for each family."""

from __future__ import annotations

import torch

from eyas.detectors.shuffledet.adapter import ShuffleDet
from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI
from helpers.toys import toy_batch


def test_shuffledets_train_together() -> None:
    anchors = [(16.0, 16.0), (32.0, 24.0)]
    teacher = ShuffleDet(["thing"], width=0.5, anchor_shapes=anchors)
    student = ShuffleDet(["thing"], width=0.25, anchor_shapes=anchors)
    distiller = Distiller(student, teacher, FGFI(1.0, init_std=1e-2))
    assert [(pair.student_tap, pair.teacher_tap) for pair in distiller.pairs] == [("backbone", "backbone")]
    images, targets = toy_batch()
    losses = distiller(images, targets)
    assert set(losses) == {"loss_class", "loss_box", "loss_confidence", "fgfi"}
    (gradient,) = torch.autograd.grad(losses["fgfi"], [next(student.backbone.parameters())])
    assert losses["fgfi"] > 0 and gradient.any()
    assert distiller.balance(images, targets).gradient_ratio()["fgfi"] > 0
