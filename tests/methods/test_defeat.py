"""DeFeat against its formula written out, and which cells of which level are an object's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eyas.methods import DeFeat
from eyas.methods.adapter import Adapter
from eyas.methods.box_weights import foreground_masks, strides_by_size
from eyas.types import EyasError, Target, View
from helpers.map_cases import drawn, map_view, set_up
from helpers.toys import toy_target

STRIDES = [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 0), (54, 0), (110, 0), (111, 1), (222, 1), (223, 2), (446, 2), (447, 3), (894, 3), (895, 4), (5000, 4)],
)
def test_the_level_of_a_square_box(side: int, level: int) -> None:
    """sqrt((w + 1) (h + 1)) / 56 of 1, 2, 4 and 8 are 55, 111, 223, 447 pixels and so on."""
    box = np.array([[10, 10, 10 + side, 10 + side]], dtype=np.float32)
    assert strides_by_size(box, STRIDES).tolist() == [STRIDES[level]]


def test_the_level_follows_the_strides_that_there_are() -> None:
    boxes = np.array([[0, 0, side, side] for side in (50, 223, 447, 3000)], dtype=np.float32)
    assert strides_by_size(boxes, [8, 16, 32]).tolist() == [8, 16, 32, 32]
    assert strides_by_size(boxes[:0], STRIDES).tolist() == []


def test_levels_of_one_stride_have_the_same_objects() -> None:
    """As those of a DETR's encoder and backbone, which are both paired."""
    target = toy_target((16, 16, 96, 96), (96, 96, 496, 496))
    masks = foreground_masks([target], [(64, 64), (64, 64), (32, 32), (32, 32)], [8, 8, 16, 16])
    assert masks[0].equal(masks[1]) and masks[2].equal(masks[3])
    assert masks[0].sum() == 10 * 10 and masks[2].sum() == 25 * 25


def test_the_cells_of_a_box_end_before_that_of_its_lower_corner() -> None:
    first, second = foreground_masks([toy_target((9, 17, 33, 39), (0, 0, 3, 3))], [(8, 8), (4, 4)], [8, 16])
    expected = torch.zeros(8, 8)
    expected[2:4, 1:4] = 1
    expected[0, 0] = 1  # a box within a cell has that cell
    assert torch.equal(first[0], expected) and not second.any()


def adapted(method: DeFeat, student: View) -> list[Tensor]:
    return [adapter(feature) for adapter, feature in zip(method.adapters, student.features, strict=True)]


def cases() -> tuple[View, View, list[Target]]:
    student = map_view(drawn(2, 3, 16, 16), drawn(2, 3, 8, 8, seed=2))
    teacher = map_view(drawn(2, 4, 16, 16, seed=1), drawn(2, 4, 8, 8, seed=3))
    return student, teacher, [toy_target((8, 8, 60, 40), (3, 3, 126, 126)), toy_target((0, 0, 128, 128))]


def test_objects_and_background_of_each_level_have_averages_of_their_own() -> None:
    student, teacher, targets = cases()
    targets = [targets[0], toy_target()]
    method = set_up(DeFeat(foreground=3.0, background=12.0), student, teacher)
    expected = 0.0
    masks = foreground_masks(targets, [(16, 16), (8, 8)], [8, 16])
    for own, other, mask in zip(adapted(method, student), teacher.features, masks, strict=True):
        squared = (own.double() - other.double()).square().mean(dim=1)
        for factor, cells in ((3.0, mask.bool()), (12.0, ~mask.bool())):
            expected += factor * float(squared[cells].mean().detach()) / 2 / 2 if cells.any() else 0
    assert float(method(student, teacher, targets).detach()) == pytest.approx(expected, rel=1e-5)


def test_equal_factors_are_not_the_mean_over_the_map() -> None:
    own, other = drawn(1, 3, 16, 16), drawn(1, 3, 16, 16, seed=1)
    student, teacher = map_view(own), map_view(other)
    method = set_up(DeFeat(foreground=1.0, background=1.0), student, teacher)
    half = float((adapted(method, student)[0] - other).square().mean().detach()) / 2
    with_box = float(method(student, teacher, [toy_target((8, 8, 60, 40))]).detach())
    assert with_box == pytest.approx(2 * half, rel=0.2) and abs(with_box - half) > 0.5 * half
    # Without boxes the background is the whole map.
    assert float(method(student, teacher, [toy_target()]).detach()) == pytest.approx(half, rel=1e-5)


def test_a_level_that_is_all_object_has_no_background() -> None:
    own, other = drawn(1, 3, 16, 16), drawn(1, 3, 16, 16, seed=1)
    student, teacher, whole = map_view(own), map_view(other), [toy_target((0, 0, 128, 128))]
    method = set_up(DeFeat(foreground=0.0), student, teacher)
    loss = method(student, teacher, whole)
    loss.backward()
    assert loss == 0 and loss.requires_grad


def test_a_3x3_convolution_adapts_equal_channels_too() -> None:
    view = map_view(drawn(1, 3, 8, 8))
    adapter = set_up(DeFeat(), view, view).adapters[0]
    assert isinstance(adapter, Adapter) and not adapter.rectified
    assert adapter.conv.weight.shape == (3, 3, 3, 3)


def test_options_out_of_range() -> None:
    with pytest.raises(EyasError, match="negative"):
        DeFeat(background=-1.0)
