from __future__ import annotations

import math

import pytest
import torch

from eyas.ops.anchors import AnchorGrid, StrideGrid, ratio_cell_anchors, shapes_to_cell_anchors


def test_anchors_follow_the_documented_formula() -> None:
    cells = torch.tensor([[-4.0, -2.0, 4.0, 2.0], [0.0, 0.0, 1.0, 3.0]])
    grid = AnchorGrid(cells, size=(2, 3), step=(10.0, 7.5), offset=(1.0, -2.0))
    anchors = grid.anchors()
    assert anchors.shape == (2, 3, 2, 4)
    for i in range(2):
        for j in range(3):
            x, y = -2 + 7.5 * j, 1 + 10 * i
            assert anchors[i, j].tolist() == [[x - 4, y - 2, x + 4, y + 2], [x, y, x + 1, y + 3]]


def test_origins_are_rows_on_axis_0_and_columns_on_axis_1() -> None:
    grid = AnchorGrid(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), size=(2, 3), step=(10.0, 7.5), offset=(1.0, -2.0))
    assert grid.origins(0).tolist() == [1.0, 11.0]
    assert grid.origins(1).tolist() == [-2.0, 5.5, 13.0]
    assert grid.origins(1, dtype=torch.float64).dtype == torch.float64


def test_a_fractional_step_is_not_rounded() -> None:
    step = 303 / 19
    grid = AnchorGrid(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), size=(1, 20), step=(step, step))
    assert grid.origins(1, dtype=torch.float64)[19] == 19 * step


@pytest.mark.parametrize(
    ("cells", "size", "step", "message"),
    [
        (torch.zeros(4), (1, 1), (1.0, 1.0), "cell_anchors"),
        (torch.zeros(0, 4), (1, 1), (1.0, 1.0), "K >= 1"),
        (torch.zeros(2, 3), (1, 1), (1.0, 1.0), "cell_anchors"),
        (torch.zeros(1, 4), (0, 5), (1.0, 1.0), "at least one cell"),
        (torch.zeros(1, 4), (1, 1), (1.0, 0.0), "positive"),
    ],
)
def test_invalid_grids_raise(
    cells: torch.Tensor, size: tuple[int, int], step: tuple[float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AnchorGrid(cells, size, step)


def test_shapes_are_width_and_height_centred_on_the_origin() -> None:
    assert shapes_to_cell_anchors([(4, 2), (6, 10)]).tolist() == [[-2, -1, 2, 1], [-3, -5, 3, 5]]


def test_ratios_are_height_over_width_at_one_area() -> None:
    boxes = ratio_cell_anchors(8, (0.25, 1.0, 4.0))
    assert boxes.tolist() == [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8]]


@pytest.mark.parametrize("image_size", [(48, 80), (50, 80), (33, 65), (64, 96)])
def test_a_stride_grid_has_a_step_of_the_stride_whatever_the_image(image_size: tuple[int, int]) -> None:
    """Also where a network pads inside, so that its map covers more than the image."""
    grid = StrideGrid(16)((3, 5), image_size)
    assert grid.step == (16.0, 16.0) and grid.offset == (8.0, 8.0)
    assert grid.num_shapes == 3
    width, height = (grid.cell_anchors[:, 2:] - grid.cell_anchors[:, :2]).unbind(1)
    torch.testing.assert_close(width * height, torch.full((3,), 64.0**2))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]))
    assert math.isclose(float(grid.cell_anchors.sum()), 0, abs_tol=1e-4)
    assert StrideGrid(8, 2.0, (1.0,))((1, 1), image_size).cell_anchors.tolist() == [[-8.0, -8.0, 8.0, 8.0]]
