from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

import eyas.ops.near_objects
from eyas.ops.anchors import AnchorGrid, shapes_to_cell_anchors
from eyas.ops.near_objects import AssignmentRule, near_object_masks, near_object_masks_reference, size_ranges

ASSIGNMENTS = get_args(AssignmentRule)
Ranges = Sequence[tuple[float, float] | None] | None
Scene = tuple[list[AnchorGrid], list[Tensor], Ranges]
checked = settings(derandomize=True, deadline=None, max_examples=100, database=None)


@pytest.fixture(params=["compact", "padded"], autouse=True, scope="module")
def row_layout(request: pytest.FixtureRequest) -> Any:
    """Both ways to list the near rows: the compact one of the CPU, and the padded one that never synchronises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eyas.ops.near_objects, "_may_synchronise", lambda device: request.param == "compact")
        yield


# --- against the brute force ------------------------------------------------------------------------------------------


def brute_force(
    grids: list[AnchorGrid],
    boxes: list[Tensor],
    psi: float,
    assignment: AssignmentRule,
    ranges: Ranges,
    margin: float = 0.0,
) -> list[Tensor]:
    """The masks box by box from the definition. A positive margin lowers the threshold, a negative one raises it."""
    anchors = [_anchors_in_float64(grid) for grid in grids]
    masks = [torch.zeros(len(boxes), *grid.size, dtype=torch.bool) for grid in grids]
    for b, image in enumerate(boxes):
        for box in image.double():
            ious = [box_iou(level.view(-1, 4), box[None]).view(level.shape[:3]) for level in anchors]
            for mask, iou, bound in zip(masks, ious, _bounds(ious, box, grids, psi, assignment, ranges), strict=True):
                if bound is not None:
                    mask[b] |= (iou > bound - margin * max(bound, 1e-3)).any(dim=-1)
    return masks


def _anchors_in_float64(grid: AnchorGrid) -> Tensor:
    (height, width), (dy, dx), (y, x) = grid.size, grid.step, grid.offset
    shapes = grid.cell_anchors.tolist()
    cells = [(x + j * dx, y + i * dy) for i in range(height) for j in range(width)]
    anchors = [[[a + u, b + v, c + u, d + v] for a, b, c, d in shapes] for u, v in cells]
    return torch.tensor(anchors, dtype=torch.float64).view(height, width, -1, 4)


def _bounds(
    ious: list[Tensor], box: Tensor, grids: list[AnchorGrid], psi: float, assignment: AssignmentRule, ranges: Ranges
) -> list[float | None]:
    best = [float(iou.max()) for iou in ious]
    if assignment == "global":
        return [psi * max(best)] * len(best)
    if assignment == "per_level":
        return [psi * level for level in best]
    side = math.sqrt(float((box[2] - box[0]) * (box[3] - box[1])))
    return [
        psi * level if low <= side < high else None
        for level, (low, high) in zip(best, size_ranges(grids, ranges), strict=True)
    ]


@st.composite
def scenes(draw: st.DrawFn, number: Callable[[float, float], st.SearchStrategy[float]]) -> Scene:
    """Grids, the boxes of a batch and box ranges, with coordinates from ``number(low, high)``."""
    grids = [
        AnchorGrid(
            _float64([_box(draw, number, -8, 8, 1, 40) for _ in range(draw(st.integers(1, 3)))]),
            size=(draw(st.integers(1, 7)), draw(st.integers(1, 9))),
            step=(draw(number(1, 24)), draw(number(1, 24))),
            offset=(draw(number(-8, 16)), draw(number(-8, 16))),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    images = [
        _float64([_object(draw, number, grids) for _ in range(draw(st.integers(0, 8)))])
        for _ in range(draw(st.integers(1, 3)))
    ]
    if len(images[0]) and draw(st.booleans()):
        images[-1] = torch.cat((images[-1], images[0], images[0][:1]))  # duplicates, within an image and across
    ranges = [draw(st.none() | st.tuples(number(0, 20), number(20, 80)) | st.just((0.0, math.inf))) for _ in grids]
    return grids, images, draw(st.sampled_from([None, ranges]))


def _float64(boxes: list[list[float]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 4)


def _box(draw: st.DrawFn, number: Any, low: float, high: float, shortest: float, longest: float) -> list[float]:
    x, y, width, height = (draw(number(a, b)) for a, b in [(low, high)] * 2 + [(shortest, longest)] * 2)
    return [x, y, x + width, y + height]


def _object(draw: st.DrawFn, number: Any, grids: list[AnchorGrid]) -> list[float]:
    kind = draw(st.sampled_from(["any", "any", "small", "outside", "anchor", "half anchor", "flat", "point"]))
    if kind in ("anchor", "half anchor"):
        anchors = _anchors_in_float64(draw(st.sampled_from(grids))).view(-1, 4).tolist()
        x1, y1, x2, y2 = draw(st.sampled_from(anchors))
        return [x1, y1, x2, y2 if kind == "anchor" else (y1 + y2) / 2]
    low, high = (-2000, -500) if kind == "outside" else (-40, 160)
    x1, y1, x2, y2 = _box(draw, number, low, high, *((1, 2) if kind == "small" else (1, 90)))
    return {"flat": [x1, y1, x2, y1], "point": [x1, y1, x1, y1]}.get(kind, [x1, y1, x2, y2])


def on_lattice(low: float, high: float) -> st.SearchStrategy[float]:
    """Multiples of 1/4: every product and sum is exact in float64, so ties at the threshold are exact ties."""
    return st.integers(math.ceil(4 * low), math.floor(4 * high)).map(lambda quarters: quarters / 4)


def anywhere(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


psis = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]) | st.floats(0, 1, allow_subnormal=False)


@checked
@given(scene=scenes(on_lattice), psi=psis, assignment=st.sampled_from(ASSIGNMENTS))
def test_masks_equal_brute_force_exactly_on_lattice_coordinates(
    scene: Scene, psi: float, assignment: AssignmentRule
) -> None:
    grids, boxes, ranges = scene
    expected = brute_force(grids, boxes, psi, assignment, ranges)
    for function in (near_object_masks, near_object_masks_reference):
        _assert_equal(function(grids, boxes, psi=psi, assignment=assignment, box_ranges=ranges), expected)


@checked
@given(scene=scenes(anywhere), psi=psis, assignment=st.sampled_from(ASSIGNMENTS))
def test_masks_equal_brute_force_up_to_rounding(scene: Scene, psi: float, assignment: AssignmentRule) -> None:
    grids, boxes, ranges = scene
    options: dict[str, Any] = {"psi": psi, "assignment": assignment, "box_ranges": ranges}
    masks = near_object_masks(grids, boxes, **options)
    _assert_equal(masks, near_object_masks_reference(grids, boxes, **options))
    certain, doubtful = (brute_force(grids, boxes, psi, assignment, ranges, margin) for margin in (-1e-12, 1e-12))
    for mask, inner, outer in zip(masks, certain, doubtful, strict=True):
        assert not (inner & ~mask).any()
        assert not (mask & ~outer).any()


@checked
@given(
    scene=scenes(on_lattice),
    psi=st.sampled_from([0.25, 0.5, 0.75]),
    fraction=st.sampled_from([(1.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.25, 1.0), (0.75, 1.0)]),
    assignment=st.sampled_from(ASSIGNMENTS),
)
def test_ties_at_the_threshold_are_not_near(
    scene: Scene, psi: float, fraction: tuple[float, float], assignment: AssignmentRule
) -> None:
    """Every box is an anchor of the grid, and another shape is a part of it, so its IoU is that fraction exactly."""
    grids, _, _ = scene
    grid = grids[0]
    x1, y1, x2, y2 = grid.cell_anchors[0].tolist()
    part = [x1, y1, x1 + (x2 - x1) * fraction[0], y1 + (y2 - y1) * fraction[1]]
    shifted = [part[0] + grid.step[1], part[1], part[2] + grid.step[1], part[3]]
    cells = torch.tensor([[x1, y1, x2, y2], part, shifted], dtype=torch.float64)
    grids = [AnchorGrid(cells, grid.size, grid.step, grid.offset), *grids[1:]]
    boxes = [_anchors_in_float64(grids[0])[:, :, 0].reshape(-1, 4)[index::3] for index in (0, 1)]
    masks = near_object_masks(grids, boxes, psi=psi, assignment=assignment)
    _assert_equal(masks, brute_force(grids, boxes, psi, assignment, None))


def _assert_equal(masks: list[Tensor], expected: list[Tensor]) -> None:
    assert len(masks) == len(expected)
    for level, (mask, wanted) in enumerate(zip(masks, expected, strict=True)):
        assert mask.dtype == torch.bool
        assert torch.equal(mask, wanted), f"level {level}:\n{mask.int()}\n{wanted.int()}"


# --- by hand ----------------------------------------------------------------------------------------------------------


def tiles(side: float, rows: int, columns: int) -> AnchorGrid:
    """Square anchors that tile the image."""
    return AnchorGrid(shapes_to_cell_anchors([(side, side)]), (rows, columns), (side, side), (side / 2, side / 2))


def cells(mask: Tensor, image: int = 0) -> set[tuple[int, int]]:
    return {(row, column) for row, column in mask[image].nonzero().tolist()}


def one_box(*xyxy: float) -> list[Tensor]:
    return [torch.tensor([xyxy], dtype=torch.float32)]


@pytest.mark.parametrize(
    ("box", "psi", "expected"),
    [
        ((16, 8, 24, 16), 0.5, {(1, 2)}),  # an anchor itself: IoU 1, and 0 elsewhere
        ((16, 8, 32, 16), 0.5, {(1, 2), (1, 3)}),  # 0.5 and 0.5
        ((16, 8, 26, 16), 0.5, {(1, 2)}),  # 0.8 and 0.125
        ((16, 8, 26, 16), 0.1, {(1, 2), (1, 3)}),
        ((16, 8, 26, 16), 0.15625, {(1, 2)}),  # 0.8 * 0.15625 = 0.125: a tie
        ((18, 10, 20, 11), 0.5, {(1, 2)}),  # smaller than a cell
        ((-100, -100, 100, 100), 0.5, {(i, j) for i in range(4) for j in range(4)}),
        ((-9, -9, 1, 1), 0.5, {(0, 0)}),  # only its corner is in the image
    ],
)
def test_near_cells_of_one_box_on_tiles_by_hand(
    box: tuple[float, ...], psi: float, expected: set[tuple[int, int]]
) -> None:
    (mask,) = near_object_masks([tiles(8, 4, 4)], one_box(*box), psi=psi)
    assert cells(mask) == expected


def test_psi_0_selects_every_overlapping_cell_and_psi_1_none() -> None:
    boxes = one_box(7, 8, 25, 9)  # touches columns 0 to 3 of row 1; the edge y = 8 alone does not touch row 0
    assert cells(near_object_masks([tiles(8, 4, 5)], boxes, psi=0.0)[0]) == {(1, 0), (1, 1), (1, 2), (1, 3)}
    assert cells(near_object_masks([tiles(8, 4, 5)], boxes, psi=1.0)[0]) == set()


def test_an_anchor_of_half_the_area_ties_with_psi_one_half() -> None:
    """The second shape of each cell covers half of the previous tile: its IoU with a box on that tile is 0.5."""
    shapes = torch.tensor([[-4.0, -4.0, 4.0, 4.0], [-12.0, -4.0, -8.0, 4.0]])
    grid = AnchorGrid(shapes, (4, 4), (8.0, 8.0), (4.0, 4.0))
    boxes = one_box(8, 8, 16, 16)
    assert cells(near_object_masks([grid], boxes, psi=0.5)[0]) == {(1, 1)}
    assert cells(near_object_masks([grid], boxes, psi=math.nextafter(0.5, 0))[0]) == {(1, 1), (1, 2)}


def test_anchors_outside_the_image_are_not_clipped() -> None:
    """IoU is 64/256 and 32/288, so psi = 0.4 selects both cells. Clipping to the 16 x 8 image would make it 64/96 and
    32/128, and select only one."""
    grid = AnchorGrid(shapes_to_cell_anchors([(16, 16)]), (1, 2), (8.0, 8.0), (4.0, 4.0))
    assert cells(near_object_masks([grid], one_box(0, 0, 8, 8), psi=0.4)[0]) == {(0, 0), (0, 1)}


@pytest.mark.parametrize(
    ("assignment", "ranges", "fine", "coarse"),
    [
        ("global", None, {(1, 2)}, {(0, 1)}),  # M = 0.5625 and 0.444 > 0.28
        ("per_level", None, {(1, 2)}, {(0, 1)}),
        ("by_size", None, set(), {(0, 1)}),  # side 12 is above sqrt(8 * 16) = 11.3
        ("by_size", [(0.0, 12.5), None], {(1, 2)}, {(0, 1)}),  # declared by one, derived for the other
        ("by_size", [(0.0, 12.5), (12.5, math.inf)], {(1, 2)}, set()),
        ("by_size", [(0.0, 12.0), (12.0, math.inf)], set(), {(0, 1)}),  # half-open
    ],
)
def test_assignment_rules_for_a_box_between_two_levels(
    assignment: AssignmentRule, ranges: Ranges, fine: set[tuple[int, int]], coarse: set[tuple[int, int]]
) -> None:
    grids = [tiles(8, 4, 4), tiles(16, 2, 2)]
    masks = near_object_masks(grids, one_box(16, 4, 28, 16), assignment=assignment, box_ranges=ranges)
    assert (cells(masks[0]), cells(masks[1])) == (fine, coarse)


def test_per_level_keeps_every_object_on_every_level_and_global_does_not() -> None:
    grids = [tiles(8, 4, 4), tiles(16, 2, 2)]
    small = one_box(16, 8, 24, 16)  # 1 on the fine level, 0.25 on the coarse one
    assert [cells(mask) for mask in near_object_masks(grids, small, assignment="per_level")] == [{(1, 2)}, {(0, 1)}]
    assert [cells(mask) for mask in near_object_masks(grids, small, assignment="global")] == [{(1, 2)}, set()]


def test_a_mask_is_the_union_over_the_boxes_of_its_own_image() -> None:
    first, second = [16.0, 8.0, 24.0, 16.0], [0.0, 24.0, 8.0, 32.0]
    batch = [torch.tensor([first, second]), torch.zeros(0, 4), torch.tensor([second, second])]
    (mask,) = near_object_masks([tiles(8, 4, 4)], batch)
    assert [cells(mask, image) for image in range(3)] == [{(1, 2), (3, 0)}, set(), {(3, 0)}]


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("function", [near_object_masks, near_object_masks_reference])
def test_no_boxes_or_empty_boxes_give_empty_masks(
    function: Callable[..., list[Tensor]], assignment: AssignmentRule
) -> None:
    grids = [tiles(8, 4, 5), tiles(16, 1, 1)]
    for boxes, images in (([torch.zeros(0, 4)] * 2, 2), ([], 0), (one_box(5, 5, 5, 9), 1), (one_box(6, 6, 2, 9), 1)):
        masks = function(grids, boxes, psi=0.0, assignment=assignment)
        assert [tuple(mask.shape) for mask in masks] == [(images, 4, 5), (images, 1, 1)]
        assert not any(mask.any() for mask in masks)


def test_boxes_of_shape_0_count_as_no_boxes() -> None:
    (mask,) = near_object_masks([tiles(8, 2, 2)], [torch.zeros(0), *one_box(0, 0, 8, 8)])
    assert (cells(mask, 0), cells(mask, 1)) == (set(), {(0, 0)})


def test_size_ranges_are_split_at_the_geometric_mean_of_the_anchor_sides() -> None:
    grids = [tiles(8, 1, 1), tiles(32, 1, 1), tiles(128, 1, 1)]
    (zero, low), (also_low, high), (also_high, top) = size_ranges(grids)
    assert (zero, top) == (0, math.inf)
    assert (low, high) == (also_low, also_high) == (pytest.approx(16), pytest.approx(64))
    assert size_ranges(grids, [None, (5.0, 7.0), None])[1] == (5.0, 7.0)
    assert size_ranges(grids[:1]) == [(0.0, math.inf)]


def test_levels_with_the_same_anchors_share_a_range_in_any_order() -> None:
    grids = [tiles(8, 1, 1), tiles(32, 1, 1), tiles(32, 2, 2), tiles(8, 1, 1)]
    fine, coarse = (0.0, pytest.approx(16)), (pytest.approx(16), math.inf)
    assert size_ranges(grids) == [fine, coarse, coarse, fine]


def test_the_typical_side_is_the_geometric_mean_over_the_shapes() -> None:
    mixed = AnchorGrid(shapes_to_cell_anchors([(4, 4), (8, 32)]), (1, 1), (8.0, 8.0))  # sides 4 and 16: typically 8
    assert size_ranges([mixed, tiles(32, 1, 1)])[0][1] == pytest.approx(16)


@pytest.mark.parametrize("function", [near_object_masks, near_object_masks_reference])
@pytest.mark.parametrize(
    ("grids", "options", "message"),
    [
        ([], {}, "at least one anchor grid"),
        ([tiles(8, 1, 1)], {"psi": 1.5}, "psi"),
        ([tiles(8, 1, 1)], {"psi": math.nan}, "psi"),
        ([tiles(8, 1, 1)], {"assignment": "both"}, "global, per_level, by_size"),
        ([tiles(8, 1, 1)], {"assignment": "by_size", "box_ranges": [None, None]}, "box_ranges"),
    ],
)
def test_invalid_arguments_raise(
    function: Callable[..., list[Tensor]], grids: list[AnchorGrid], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(grids, one_box(0, 0, 8, 8), **options)


# --- cost -------------------------------------------------------------------------------------------------------------


class _LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes():  # a view by expand costs nothing
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_memory_never_grows_with_all_anchors_times_all_boxes() -> None:
    shapes = torch.tensor([(4.0, 4.0), (3.0, 6.0), (6.0, 3.0)])
    grids = [
        AnchorGrid(shapes_to_cell_anchors((shapes * stride).tolist()), (256 // stride, 384 // stride), (stride, stride))
        for stride in (4, 8, 16)
    ]
    corners = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 256
    boxes = [torch.cat((corners, corners + 30), dim=1)]
    table = 40 * 3 * 64 * 96
    with _LargestTensor() as reference:
        near_object_masks_reference(grids, boxes)
    with _LargestTensor() as fast:
        near_object_masks(grids, boxes)
    assert reference.elements >= table  # the measurement works
    cells, pair_rows = sum((grid.size[0]) * (grid.size[1] + 1) for grid in grids), 40 * 9 * 64
    assert fast.elements <= max(cells, 16 * pair_rows) < table
