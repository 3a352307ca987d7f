"""FitNets' hint and box masks: FGFI's loss on other cells."""

from __future__ import annotations

import pytest
import torch
from test_fgfi import EMPTY, TARGETS, loss_and_gradients, prepared, views
from torch import Tensor

from eyas.methods import FGFI, BoxMask, FitNets
from eyas.methods.box_mask import box_masks
from eyas.methods.imitation import FeatureImitation
from eyas.ops.anchors import AnchorGrid, shapes_to_cell_anchors
from eyas.types import EyasError, Target, View
from helpers.toys import toy_target

GRID = AnchorGrid(shapes_to_cell_anchors([(16, 16), (8, 24)]), (4, 6), (8.0, 8.0), (4.0, 4.0))
"""Cell (i, j) covers rows 8i to 8i + 8 and columns 8j to 8j + 8."""


def cells(mask: Tensor) -> list[list[int]]:
    return mask.nonzero().tolist()


def value(method: FeatureImitation, student: View, teacher: View, targets: list[Target]) -> float:
    return float(method(student, teacher, targets).detach())


# --- FitNets ---


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_hint_equals_loops_over_cells(kernel_size: int) -> None:
    student, teacher = views()
    method = prepared(FitNets(kernel_size=kernel_size), student, teacher)
    total, count = 0.0, 0
    for adapter, s, t in zip(method.adapters, student.features, teacher.features, strict=True):
        assert adapter.conv.kernel_size == (kernel_size, kernel_size)
        difference = adapter(s).detach().double() - t.double()
        for image in difference:
            for row in image.permute(1, 2, 0):
                for cell in row:
                    total += float(cell @ cell)
                    count += 1
    assert count == 2 * (8 * 12 + 4 * 6)
    assert float(method(student, teacher, TARGETS).detach()) == pytest.approx(total / (2 * count), rel=1e-5)


def test_the_hint_by_hand() -> None:
    """One cell, adapter 2s + 1: s = 3 gives 7 against 4, half of 9 over one cell."""
    student, _ = views(1, 1)
    level = student.levels[:1]
    one = [View([torch.full((1, 1, 1, 1), value)], level, (8, 8)) for value in (3.0, 4.0)]
    method = prepared(FitNets(), *one)
    with torch.no_grad():
        method.adapters[0].conv.weight.fill_(2)
        method.adapters[0].conv.bias.fill_(1)
    assert float(method(*one, [toy_target()]).detach()) == 4.5


def test_the_hint_does_not_depend_on_objects() -> None:
    student, teacher = views()
    method = prepared(FitNets(), student, teacher)
    assert value(method, student, teacher, EMPTY) == value(method, student, teacher, TARGETS) > 0


# --- box masks ---


@pytest.mark.parametrize(
    ("box", "scale", "rows", "columns"),
    [
        ((8, 8, 24, 16), 1.0, [1], [1, 2]),  # edges on cell borders
        ((9, 7, 25, 17), 1.0, [0, 1, 2], [1, 2, 3]),
        ((8, 8, 24, 16), 2.0, [0, 1, 2], [0, 1, 2, 3]),  # 0 to 32 by 4 to 20
        ((0, 0, 32, 32), 0.5, [1, 2], [1, 2]),
        ((17, 17, 18, 18), 1.0, [2], [2]),  # smaller than a cell
        ((-50, -50, 100, 100), 1.0, [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
        ((60, 40, 80, 50), 1.0, [], []),  # outside the map
    ],
)
def test_cells_that_a_box_overlaps(box: tuple[float, ...], scale: float, rows: list[int], columns: list[int]) -> None:
    mask = box_masks(GRID, [torch.tensor([box])], scale)
    assert cells(mask) == [[0, row, column] for row in rows for column in columns]


def test_the_union_over_boxes_of_each_image() -> None:
    boxes = [torch.tensor([[0.0, 0, 8, 8], [40, 24, 48, 32]]), torch.zeros(0, 4), torch.tensor([[8.0, 0, 16, 8]])]
    assert cells(box_masks(GRID, boxes)) == [[0, 0, 0], [0, 3, 5], [2, 0, 1]]


def test_box_masks_against_every_cell_and_box() -> None:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(40, 2, generator=generator) * 60 - 5
    boxes = torch.cat((corner, corner + torch.rand(40, 2, generator=generator) * 20), dim=1)
    for box in boxes:
        (x, y, right, bottom), expected = box.tolist(), []
        for row in range(4):
            for column in range(6):
                if min(right, 8 * column + 8) > max(x, 8 * column) and min(bottom, 8 * row + 8) > max(y, 8 * row):
                    expected.append([0, row, column])
        assert cells(box_masks(GRID, [box[None]])) == expected


def test_box_mask_imitates_the_cells_inside_boxes() -> None:
    student, teacher = views()
    method = prepared(BoxMask(), student, teacher)
    masks = [box_masks(grid, [target["boxes"] for target in TARGETS]) for grid in teacher.grids]
    assert all(0 < float(mask.float().mean()) < 1 for mask in masks)
    total = sum(
        float((adapter(s) - t).detach().square().sum(dim=1)[mask].sum())
        for adapter, s, t, mask in zip(method.adapters, student.features, teacher.features, masks, strict=True)
    )
    count = sum(int(mask.sum()) for mask in masks)
    assert value(method, student, teacher, TARGETS) == pytest.approx(total / (2 * count), rel=1e-5)
    assert "in boxes: " in method.describe(teacher, TARGETS)


# --- both ---


@pytest.mark.parametrize("method", [FitNets(), BoxMask(), BoxMask(scale=1.5)])
@pytest.mark.parametrize("targets", [EMPTY, [toy_target((8, 8, 30, 30)), toy_target()]])
def test_gradients_reach_only_the_student_and_the_adapters(method: FeatureImitation, targets: list[Target]) -> None:
    student, teacher = views()
    loss, *gradients = loss_and_gradients(prepared(method, student, teacher), student, teacher, targets)
    assert torch.isfinite(loss) and all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not any(feature.requires_grad for feature in teacher.features)
    felt = any(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert felt == (isinstance(method, FitNets) or targets is not EMPTY)


def test_the_hint_is_fgfi_with_every_cell() -> None:
    """psi = 0 selects each cell with an anchor that overlaps the box, and here the box overlaps all of them."""
    student, teacher = views()
    everywhere = [toy_target((0, 0, 96, 64)), toy_target((0, 0, 96, 64))]
    hint, near = (
        value(prepared(method, student, teacher), student, teacher, everywhere)
        for method in (FitNets(kernel_size=3), FGFI(psi=0.0))
    )
    assert near == pytest.approx(hint, rel=1e-6)


def test_fgfi_at_psi_1_has_no_loss() -> None:
    student, teacher = views()
    assert value(prepared(FGFI(psi=1.0), student, teacher), student, teacher, TARGETS) == 0


def test_a_scale_of_0_raises() -> None:
    with pytest.raises(EyasError, match="BoxMask: scale"):
        BoxMask(scale=0)
