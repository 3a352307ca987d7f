"""FRS against its formula written out, on maps and on class outputs, and its limiting cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eyas.distillation.distiller import Distiller
from eyas.methods import FRS, LevelPair
from eyas.ops.cells import CellLayout
from eyas.types import EyasError, HeadOutput, MatchedAnchors, View
from helpers.map_cases import drawn, map_view, set_up
from helpers.method_pairs import make
from helpers.toys import toy_target


def case(*scores: Tensor) -> tuple[FRS, View, View, list[Tensor]]:
    """A method, views of two levels, and the squared distances of the adapted maps, (batch, H, W)."""
    student = map_view(drawn(2, 3, 8, 6), drawn(2, 3, 4, 3, seed=1))
    teacher = map_view(drawn(2, 4, 8, 6, seed=2), drawn(2, 4, 4, 3, seed=3))
    teacher = replace(teacher, scores=scores)
    method = set_up(FRS(features=0.25), student, teacher)
    maps = zip(method.adapters, student.features, teacher.features, strict=True)
    squared = [(adapter(own).double() - other).square().sum(dim=1).detach() for adapter, own, other in maps]
    return method, student, teacher, squared


def test_each_level_has_a_mean_weighted_by_the_scores() -> None:
    scores = drawn(2, 8, 6, seed=4).sigmoid(), drawn(2, 4, 3, seed=5).sigmoid() * 0.01
    method, student, teacher, squared = case(*scores)
    expected = sum(float((s * own).sum() / s.sum()) for s, own in zip(scores, squared, strict=True)) * 0.25
    assert float(method(student, teacher, []).detach()) == pytest.approx(expected, rel=1e-5)


def test_equal_scores_are_the_mean_over_cells_whatever_their_value() -> None:
    method, student, teacher, squared = case(torch.full((2, 8, 6), 0.3), torch.ones(2, 4, 3))
    expected = 0.25 * sum(float(own.mean()) for own in squared)
    assert float(method(student, teacher, []).detach()) == pytest.approx(expected, rel=1e-5)


def test_one_cell_with_a_score_has_all_the_loss() -> None:
    scores = torch.zeros(2, 8, 6), torch.zeros(2, 4, 3)
    scores[0][1, 2, 5] = 0.1
    method, student, teacher, squared = case(*scores)
    loss = method(student, teacher, [])
    assert float(loss.detach()) == pytest.approx(0.25 * float(squared[0][1, 2, 5]), rel=1e-5)
    assert method.parts["s1"] == 0


def test_scores_beyond_the_students_map_are_left_out() -> None:
    own, other = drawn(1, 3, 4, 4), drawn(1, 3, 4, 6, seed=1)
    scores = drawn(1, 4, 6, seed=2).sigmoid()
    student, wide = map_view(own), replace(map_view(other), scores=[scores])
    narrow = replace(map_view(other[..., :4]), scores=[scores[..., :4]])
    method = set_up(FRS(), student, wide)
    assert torch.equal(method(student, wide, []), method(student, narrow, []))


LAYOUT = CellLayout(((4, 3), (2, 2)), (2, 1))


def head(logits: Tensor, layout: CellLayout | None = LAYOUT) -> HeadOutput:
    nothing = torch.zeros(0, dtype=torch.int64)
    matched = MatchedAnchors(nothing, nothing, nothing, torch.zeros(0, 4), torch.ones(()), "loss_class", "loss_box")
    boxes = [torch.zeros(sum(LAYOUT.counts), 4)] * 2
    deltas = torch.zeros(len(logits), 1, 4)
    return HeadOutput(boxes, logits, "sigmoid", deltas=deltas, matched=matched, layout=layout)


def maps_and_scores(logits: Tensor) -> View:
    """Maps of the layout's sizes, whose scores are the highest of their rows."""
    maps = map_view(*(drawn(2, 4, *size) for size in LAYOUT.sizes))
    return replace(maps, scores=LAYOUT.highest(logits.sigmoid()))


def test_class_outputs_have_the_same_mean_of_their_cross_entropy() -> None:
    rows = 2 * sum(LAYOUT.counts)
    own, other = drawn(rows, 3).requires_grad_(), drawn(rows, 3, seed=1)
    maps = maps_and_scores(other)
    student, teacher = replace(maps, heads={"anchors": head(own)}), replace(maps, heads={"anchors": head(other)})
    method = set_up(FRS(features=0.0, classes=2.0), student, teacher)
    loss = method(student, teacher, [])
    entropy = F.binary_cross_entropy(own.double().sigmoid(), other.double().sigmoid(), reduction="none")
    expected, row = 0.0, 0
    weights = torch.zeros(2, dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)
    for _ in range(2):
        for level, ((height, width), anchors) in enumerate(zip(LAYOUT.sizes, LAYOUT.anchors, strict=True)):
            for _ in range(height * width):
                cell = slice(row, row + anchors)
                score = other[cell].double().sigmoid().max()
                weights[level] += score
                sums[level] += score * entropy[cell].sum().detach()
                row += anchors
    expected = 2 * float((sums / weights).sum())
    assert row == rows and list(method.parts) == ["s0", "s1", "anchors 0", "anchors 1"]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert own.grad is not None and own.grad.all()


def test_class_outputs_are_those_of_the_compared_strides_and_of_no_other_head() -> None:
    """FCOS's centerness and YOLOX's objectness are dense sigmoids as well, without boxes."""
    logits = drawn(2 * sum(LAYOUT.counts), 1)
    heads = {"anchors": head(logits), "centerness": replace(head(logits), deltas=None)}
    view = replace(maps_and_scores(logits), heads=heads)
    for finest, parts in ((None, ["anchors 0", "anchors 1"]), (1, ["anchors 0"])):
        method = set_up(FRS(classes=1.0, finest=finest), view, view)
        method(view, view, [])
        assert [name for name in method.parts if " " in name] == parts
    bare = replace(view, heads={"centerness": heads["centerness"]})
    with pytest.raises(EyasError, match="no dense head with sigmoids of classes"):
        set_up(FRS(classes=1.0), bare, bare)(bare, bare, [])


def test_levels_of_one_size_have_the_scores_of_their_own() -> None:
    """Images of 64 pixels have one cell at strides 64 and 128."""
    layout = CellLayout(((1, 1), (1, 1)), (1, 1))
    own, other = torch.zeros(2, 1), torch.tensor([2.0, -3.0]).view(2, 1)
    maps = map_view(drawn(1, 4, 1, 1), drawn(1, 4, 1, 1))
    for scores, expected in (((0.9, 0.0), [True, False]), ((0.0, 0.9), [False, True])):
        view = replace(maps, scores=[torch.full((1, 1, 1), score) for score in scores])
        student, teacher = (replace(view, heads={"anchors": head(logits, layout)}) for logits in (own, other))
        method = set_up(FRS(classes=1.0), student, teacher)
        method(student, teacher, [])
        assert [bool(method.parts[f"anchors {level}"] > 0) for level in (0, 1)] == expected
    last = FRS(classes=1.0)
    last.setup([LevelPair("s1", maps.levels[1], "t1", maps.levels[1], place=2)])
    first = replace(student, features=student.features[:1], levels=student.levels[:1], scores=student.scores[:1])
    with pytest.raises(EyasError, match="no cells like those of its level 2, counted from 0"):
        last(first, first, [])


def test_the_class_outputs_of_fcos_are_its_classes() -> None:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    method = FRS(weight=1.0, classes=0.05)
    Distiller(make("fcos", 0), make("fcos", 1), method)(images, [toy_target((10, 12, 50, 40)), toy_target()])
    assert {name.split()[0] for name in method.parts if " " in name} == {"anchors"}


def test_while_the_weight_warms_up_the_student_feels_nothing_of_the_class_outputs() -> None:
    student = make("retinanet", 0)
    distiller = Distiller(student, make("retinanet", 1), FRS(classes=1.0))
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    distiller(images, [toy_target((10, 12, 50, 40)), toy_target()])["frs"].backward()
    assert all(own.grad is None or not own.grad.any() for own in student.network.parameters())
    adapters = [own for name, own in distiller.named_parameters() if "adapters" in name]
    assert adapters and all(own.grad is not None and own.grad.any() for own in adapters)


def test_class_outputs_without_cells_are_refused() -> None:
    maps = map_view(drawn(2, 4, 8, 6))
    view = replace(maps, heads={"roi": head(drawn(2 * sum(LAYOUT.counts), 3), None)})
    method = set_up(FRS(classes=1.0), view, view)
    with pytest.raises(EyasError, match="no dense head"):
        method(view, view, [])


def test_both_parts_of_a_real_pair() -> None:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    targets = [toy_target((10, 12, 50, 40)), toy_target()]
    method = FRS(weight=1.0, classes=0.02)
    distiller = Distiller(make("retinanet", 0), make("retinanet", 1), method)
    distiller(images, targets)["frs"].backward()
    features = [name for name in method.parts if not name.startswith("anchors ")]
    assert len(features) == len(distiller.pairs) and len(method.parts) > len(features)
    assert all(bool(part > 0) and bool(part.isfinite()) for part in method.parts.values())


def test_a_cache_cannot_serve_it_and_options_out_of_range() -> None:
    with pytest.raises(EyasError, match="cache"):
        FRS().fingerprint()
    with pytest.raises(EyasError, match="negative"):
        FRS(features=-1.0)
    assert FRS().reads == {"teacher_scores"} and FRS(classes=0.1).reads == {"teacher_scores", "heads"}
