"""FGD against its equations written out cell by cell, and the weights that it takes from boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eyas.methods import FGD
from eyas.methods.box_weights import inverse_areas
from eyas.methods.fgd import focal_sums
from eyas.methods.global_context import GlobalContext
from eyas.types import EyasError
from helpers.map_cases import drawn, map_view, set_up
from helpers.toys import toy_target

INSIDE = toy_target((10, 17, 30, 39))  # from cell (2, 1) to (5, 4) at stride 8: 4 x 4 cells


def attention(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Equations 1 to 4: of one image (C, H, W), over the cells and over the channels."""
    strength, means = maps.abs().mean(dim=0), maps.abs().mean(dim=(1, 2))
    cells = (strength / temperature).exp()
    channels = (means / temperature).exp()
    return cells * cells.numel() / cells.sum(), channels * len(channels) / channels.sum()


def written_out(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> list[float]:
    """Foreground, background and attention, cell by cell in float64."""
    sums = [0.0, 0.0, 0.0]
    for own, other, weight in zip(student.double(), teacher.double(), weights.double(), strict=True):
        cells, channels = attention(other, temperature)
        own_cells, own_channels = attention(own, temperature)
        empty = int((weight == 0).sum())
        for row in range(own.shape[1]):
            for column in range(own.shape[2]):
                squared = float(((own[:, row, column] - other[:, row, column]).square() * channels).sum())
                focused, share = squared * float(cells[row, column]), float(weight[row, column])
                sums[0] += focused * share
                sums[1] += focused / empty if share == 0 else 0
        sums[2] += float((own_cells - cells).abs().sum() + (own_channels - channels).abs().sum())
    return sums


def test_the_sums_of_the_equations() -> None:
    student, teacher = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    weights = inverse_areas([INSIDE, toy_target((0, 0, 20, 20), (4, 4, 64, 50))], (8, 8), 8)
    found = focal_sums(student, teacher, weights, 0.5)
    assert found.tolist() == pytest.approx(written_out(student, teacher, weights, 0.5), rel=1e-5)


def test_the_whole_loss_is_per_image_and_has_a_factor_for_each_part() -> None:
    own, other = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    student, teacher, targets = map_view(own), map_view(other), [INSIDE, toy_target()]
    method = set_up(FGD(foreground=2.0, background=3.0, attention=5.0, relation=7.0), student, teacher)
    parts = written_out(own, other, inverse_areas(targets, (8, 8), 8), 0.5)
    related = float((own.double() - other.double()).square().sum())  # new context blocks change nothing
    expected = (2 * parts[0] + 3 * parts[1] + 5 * parts[2] + 7 * related) / 2
    assert float(method(student, teacher, targets).detach()) == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_box_inside_add_up_to_1() -> None:
    weights = inverse_areas([INSIDE], (8, 8), 8)[0]
    assert weights[2:6, 1:5].flatten().tolist() == [1 / 16] * 16
    assert float(weights.sum()) == 1
    assert not inverse_areas([toy_target()], (8, 8), 8).any()


def test_a_box_at_the_edge_has_less_because_its_last_cell_is_cut() -> None:
    weights = inverse_areas([toy_target((40, 40, 64, 64))], (8, 8), 8)[0]
    assert weights[5:, 5:].flatten().tolist() == [1 / 16] * 9
    assert float(weights.sum()) == 9 / 16


def test_a_cell_in_several_boxes_has_the_smallest_ones_area() -> None:
    large, small = (0.0, 0.0, 60.0, 60.0), (10.0, 17.0, 30.0, 39.0)
    one, other = (inverse_areas([toy_target(*boxes)], (8, 8), 8) for boxes in ((large, small), (small, large)))
    assert torch.equal(one, other)
    assert one[0, 3, 3] == 1 / 16 and one[0, 0, 0] == torch.tensor(1 / 81)


def test_boxes_lie_where_their_pixels_are_in_a_padded_image_too() -> None:
    """A map of a wider padded image has the same weights in the columns that both have."""
    narrow, wide = (inverse_areas([INSIDE], (8, columns), 8) for columns in (8, 12))
    assert torch.equal(narrow, wide[..., :8]) and not wide[..., 8:].any()


def test_an_image_that_is_all_object_has_no_background() -> None:
    student, teacher = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1)
    weights = inverse_areas([toy_target((0, 0, 32, 32))], (4, 4), 8)
    assert weights.all()
    found = focal_sums(student, teacher, weights, 0.5)
    assert found[1] == 0 and found[0] > 0


def test_equal_maps_have_no_loss_at_first() -> None:
    view = map_view(drawn(2, 3, 8, 8))
    assert float(set_up(FGD(), view, view)(view, view, [INSIDE, INSIDE]).detach()) == 0


def test_global_context_by_hand() -> None:
    block, maps = GlobalContext(4), drawn(2, 4, 3, 5)
    assert torch.equal(block(maps), maps)
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=index))
    weight, bias = block.attend.weight[0, :, 0, 0], block.attend.bias
    assert bias is not None
    for own, found in zip(maps, block(maps), strict=True):
        strength = torch.einsum("chw,c->hw", own, weight) + bias
        share = strength.exp() / strength.exp().sum()
        context = torch.einsum("chw,hw->c", own, share)
        torch.testing.assert_close(found, own + block.transform(context)[:, None, None])


def test_the_teachers_side_of_the_relation_is_trained_and_the_teacher_is_not() -> None:
    other = drawn(1, 4, 8, 8, seed=1).requires_grad_()
    student, teacher = map_view(drawn(1, 4, 8, 8)), map_view(other.detach())
    method = set_up(FGD(), student, teacher)
    method(student, teacher, [INSIDE]).backward()
    for blocks in (method.own_contexts, method.teacher_contexts):
        last = [parameter.grad for name, parameter in blocks.named_parameters() if name.endswith("transform.3.bias")]
        assert len(last) == 1 and last[0] is not None and last[0].any()
    assert other.grad is None


def test_options_out_of_range() -> None:
    with pytest.raises(EyasError, match="temperature"):
        FGD(temperature=0.0)
    with pytest.raises(EyasError, match="negative"):
        FGD(relation=-math.inf)
