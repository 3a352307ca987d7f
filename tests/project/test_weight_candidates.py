"""The rules for FGFI's weight to be compared with the one in use."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import pytest
import torch
from benchmarks.weight_candidates import LevelledFGFI, MeasuredFGFI, ProjectedFGFI, UncertaintyFGFI, gradients
from torch import Tensor

from eyas.cache.store import fingerprint
from eyas.methods.fgfi import FGFI
from eyas.methods.method import LevelPair
from eyas.types import Level, View
from helpers.toys import toy_grid, toy_target

M = TypeVar("M", bound=FGFI)
SIZES = ((8, 12), (4, 6))
TARGETS = [toy_target((8, 8, 30, 30), (50, 20, 95, 60)), toy_target((30, 4, 76, 50))]


def views() -> tuple[View, View]:
    """Two levels. The detection loss pulls the student's coarse map to a random one, and pushes its fine one away."""
    torch.manual_seed(0)
    levels = [Level(3, stride, toy_grid) for stride in (8, 16)]
    student = [torch.randn(2, 3, *size).requires_grad_() for size in SIZES]
    wanted = [torch.randn(2, 3, *size) for size in SIZES]
    fine, coarse = ((map_ - own).square().mean() for map_, own in zip(student, wanted, strict=True))
    teacher = View([torch.randn(2, 3, *size) for size in SIZES], levels, (64, 96))
    return replace(View(student, levels, (64, 96)), losses={"detection": coarse - fine}), teacher


def prepared(method: M) -> M:
    torch.manual_seed(1)
    levels = [Level(3, stride, toy_grid) for stride in (8, 16)]
    method.setup([LevelPair(f"s{level.stride}", level, f"t{level.stride}", level) for level in levels])
    return method


def products(first: list[Tensor], second: list[Tensor], dims: tuple[int, ...]) -> list[Tensor]:
    return [(one * other).sum(dims) for one, other in zip(first, second, strict=True)]


@pytest.mark.parametrize(("over", "dims"), [("level", (0, 1, 2, 3)), ("cell", (1,))])
def test_a_projected_gradient_never_opposes_and_is_the_plain_one_where_that_does_not(
    over: Literal["level", "cell"], dims: tuple[int, ...]
) -> None:
    student, teacher = views()
    features = list(student.features)
    plain, projected = prepared(FGFI(init_std=0.5)), prepared(ProjectedFGFI(over, init_std=0.5))
    loss, other = plain(student, teacher, TARGETS), projected(student, teacher, TARGETS)
    assert loss.item() == pytest.approx(other.item())
    detection = gradients(student.losses["detection"], features)
    before, after = gradients(loss, features), gradients(other, features)
    opposing = products(detection, before, dims)
    assert any((product < -1e-6).any() for product in opposing)
    for product, was, one, two in zip(products(detection, after, dims), opposing, before, after, strict=True):
        assert (product > -1e-6).all()
        agrees = (was >= 0)[:, None].expand_as(one) if over == "cell" else (was >= 0).expand_as(one)
        torch.testing.assert_close(one[agrees], two[agrees])
    for one, two in zip(plain.parameters(), projected.parameters(), strict=True):
        (given,), (found,) = gradients(loss, [one]), gradients(other, [two])
        torch.testing.assert_close(given, found)


def test_a_levelled_gradient_has_one_ratio_on_every_level_and_the_norm_it_had() -> None:
    student, teacher = views()
    features = list(student.features)
    loss = prepared(FGFI(init_std=0.5))(student, teacher, TARGETS)
    other = prepared(LevelledFGFI(init_std=0.5))(student, teacher, TARGETS)
    assert loss.item() == pytest.approx(other.item())
    found = [gradients(one, features) for one in (student.losses["detection"], loss, other)]
    detection, plain, levelled = (torch.stack([map_.norm() for map_ in maps]) for maps in found)
    before, after = plain / detection, levelled / detection
    assert before[0] != pytest.approx(float(before[1]), rel=0.05)
    assert after[0] == pytest.approx(float(after[1]), rel=1e-4)
    assert levelled.norm() == pytest.approx(float(plain.norm()), rel=1e-4)
    for one, two in zip(found[1], found[2], strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) == pytest.approx(1, abs=1e-5)


def test_a_level_without_near_cells_gives_the_others_its_share() -> None:
    student, teacher = views()
    detection = student.losses["detection"] + 100 * student.features[1].square().mean()
    student = replace(student, losses={"detection": detection})
    small = [toy_target((0, 0, 9, 9)), toy_target()]  # near cells at the finer level alone
    method = prepared(LevelledFGFI(init_std=0.5))
    assert [int(mask.sum()) > 0 for mask in method.masks(teacher, small)] == [True, False]
    plain, levelled = (
        gradients(one(student, teacher, small), list(student.features))
        for one in (prepared(FGFI(init_std=0.5)), method)
    )
    assert all(torch.allclose(*both, rtol=1e-4) for both in zip(plain, levelled, strict=True))


def test_an_uncertainty_weights_by_its_exponential_and_rests_where_that_is_one_over_the_loss() -> None:
    student, teacher = views()
    loss = prepared(FGFI(init_std=0.5))(student, teacher, TARGETS)
    method = prepared(UncertaintyFGFI(start=math.log(loss.item()), init_std=0.5))
    found = method(student, teacher, TARGETS)
    assert found.item() == pytest.approx(1 + math.log(loss.item()))
    (slope,) = gradients(found, [method.log_variance])
    assert float(slope) == pytest.approx(0, abs=1e-6)


def test_measured_gradients_are_those_of_both_losses(tmp_path: Path) -> None:
    student, teacher = views()
    method = prepared(MeasuredFGFI(str(tmp_path / "rows.jsonl"), init_std=0.5))
    loss = method(student, teacher, TARGETS)
    method(replace(student, batch=7), teacher, TARGETS)
    (line,) = (tmp_path / "rows.jsonl").read_text().splitlines()
    detection = gradients(student.losses["detection"], list(student.features))
    imitation = gradients(loss, list(student.features))
    masks = method.masks(teacher, TARGETS)
    for row, one, two, mask in zip(json.loads(line)["levels"], detection, imitation, masks, strict=True):
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0)
        wanted = [one.norm(), two.norm(), (one * mask[:, None]).norm(), cosine]
        assert row == pytest.approx([float(value) for value in wanted], rel=1e-5)


def test_a_cache_serves_them(tmp_path: Path) -> None:
    for method in (LevelledFGFI(), ProjectedFGFI(), UncertaintyFGFI(), MeasuredFGFI(str(tmp_path / "rows.jsonl"))):
        shared = fingerprint(
            method, teacher="", taps=["f"], resize={"width": 8, "height": 8}, dtype="float16", precision="no"
        )
        assert FGFI().fingerprint().items() <= shared["method"].items()
