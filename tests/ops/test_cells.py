"""Rows of a dense head against a loop over images, levels, cells and anchors."""

from __future__ import annotations

import itertools

import pytest
import torch

from eyas.ops.cells import CellLayout, Cells

LAYOUTS = [
    CellLayout(((3, 5), (2, 2), (1, 1)), (2, 3, 1)),
    CellLayout(((1, 4),), (9,)),
    CellLayout(((1, 1),) * 3, (1,) * 3),
]


def listed(layout: CellLayout, images: int) -> list[tuple[int, ...]]:
    """Image, level, y, x and anchor of every row, in order."""
    return [
        (image, level, y, x, anchor)
        for image in range(images)
        for level, ((height, width), anchors) in enumerate(zip(layout.sizes, layout.anchors, strict=True))
        for y, x, anchor in itertools.product(range(height), range(width), range(anchors))
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_ordered_by_image_level_row_column_and_anchor(layout: CellLayout) -> None:
    expected = torch.tensor(listed(layout, 3))
    rows = torch.arange(len(expected))
    assert torch.equal(torch.stack(layout.cells(rows), dim=1), expected)
    assert torch.equal(layout.rows(Cells(*expected.T)), rows)


def test_any_rows_in_any_order() -> None:
    layout = LAYOUTS[0]
    rows = torch.tensor([86, 0, 41, 42, 29, 30])
    cells = layout.cells(rows)
    assert [tuple(int(value) for value in cell) for cell in zip(*cells, strict=True)] == [
        listed(layout, 3)[row] for row in rows.tolist()
    ]
    assert torch.equal(layout.rows(cells), rows)
    assert layout.cells(rows[:0]).image.shape == (0,)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_have_the_value_of_each_row_in_its_cell(layout: CellLayout) -> None:
    places = listed(layout, 2)
    values = torch.arange(len(places) * 2.0).reshape(-1, 2)
    maps = layout.maps(values)
    for row, (image, level, y, x, anchor) in enumerate(places):
        assert torch.equal(maps[level][image, y, x, anchor], values[row])
    assert [tuple(one.shape[:4]) for one in maps] == [
        (2, *size, anchors) for size, anchors in zip(layout.sizes, layout.anchors, strict=True)
    ]
    highest = layout.highest(values)
    for level, one in enumerate(maps):
        assert torch.equal(highest[level], one.flatten(3).max(dim=3).values)


def test_maps_are_views() -> None:
    values = torch.zeros(2 * sum(LAYOUTS[0].counts), 1)
    LAYOUTS[0].maps(values)[1][1, 0, 1, 2] = 1
    assert float(values.sum()) == 1


def test_levels_without_anchors_are_refused() -> None:
    with pytest.raises(ValueError, match="2 levels have sizes and 1 have anchors"):
        CellLayout(((1, 1), (2, 2)), (1,))
