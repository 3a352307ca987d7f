"""Fine-grained feature imitation: the scale of its loss, dense against sparse, and limiting cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eyas.methods import imitation
from eyas.methods.adapter import Adapter
from eyas.methods.cells import gather
from eyas.methods.fgfi import FGFI
from eyas.methods.imitation import count_imitated_cells, imitation_loss, sparse_imitation_loss
from eyas.methods.method import LevelPair
from eyas.types import EyasError, Level, Target, View
from helpers.toys import relative, toy_grid, toy_target

IMAGE = (64, 96)
SIZES = ((8, 12), (4, 6))
TARGETS = [toy_target((8, 8, 30, 30), (50, 20, 95, 60)), toy_target((30, 4, 76, 50))]
EMPTY = [toy_target(), toy_target()]


class Given(FGFI):
    """FGFI with given masks."""

    given: list[Tensor]

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        return self.given


def views(
    student_channels: int = 3,
    teacher_channels: int = 5,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    student_sizes: Sequence[tuple[int, int]] = SIZES,
    student_strides: Sequence[int] = (8, 16),
) -> tuple[View, View]:
    """Random features of two levels; the student's require a gradient."""
    generator = torch.Generator().manual_seed(3)

    def view(channels: int, sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> View:
        features = [torch.randn(2, channels, *size, generator=generator).to(memory_format=layout) for size in sizes]
        return View(features, [Level(channels, stride, toy_grid) for stride in strides], IMAGE)

    student = view(student_channels, student_sizes, student_strides)
    teacher = view(teacher_channels, SIZES, (8, 16))
    for feature in student.features:
        feature.requires_grad_()
    return student, teacher


def prepared(method: FGFI, student: View, teacher: View, *, rectified: bool = False) -> FGFI:
    torch.manual_seed(11)
    levels = zip(student.levels, teacher.levels, strict=True)
    method.setup([LevelPair(f"s{i}", s, f"t{i}", t, rectified) for i, (s, t) in enumerate(levels)])
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return method


def loss_and_gradients(method: FGFI, student: View, teacher: View, targets: list[Target]) -> list[Tensor]:
    loss = method(student, teacher, targets)
    return [loss, *torch.autograd.grad(loss, [*student.features, *method.parameters()])]


# --- the scale of the loss ---


def test_the_loss_by_hand() -> None:
    """Two near cells of three: 1/(2*2) * ((1-0)^2 + (2-4)^2 + (0-1)^2 + (5-2)^2) = 15/4."""
    adapted = torch.tensor([[1.0, 0.0, 9.0], [2.0, 5.0, 9.0]]).view(1, 2, 1, 3)
    teacher = torch.tensor([[0.0, 1.0, 0.0], [4.0, 2.0, 0.0]]).view(1, 2, 1, 3)
    mask = torch.tensor([[[True, True, False]]])
    assert imitation_loss(adapted, teacher, mask, mask.sum()) == 15 / 4
    assert sparse_imitation_loss(adapted[0, :, 0, :2].t(), teacher[0, :, 0, :2].t(), 2) == 15 / 4


def test_n_p_counts_the_cells_of_all_images_and_levels() -> None:
    fine, coarse = torch.zeros(2, 4, 6, dtype=torch.bool), torch.zeros(2, 2, 3, dtype=torch.bool)
    fine[0, :2, :3], fine[1, 3, 5], coarse[1, 0, 1] = True, True, True
    near = count_imitated_cells([gather(torch.zeros(2, 3, *mask.shape[1:]), mask) for mask in (fine, coarse)])
    assert near == 8 and near.dtype == torch.float32


@pytest.mark.parametrize("sparse_below", [0.0, 1.1])
def test_the_loss_equals_equation_2_written_as_loops(sparse_below: float) -> None:
    student, teacher = views()
    method = prepared(FGFI(sparse_below=sparse_below), student, teacher)
    masks = method.masks(teacher, TARGETS)
    assert len({int(image.sum()) for mask in masks for image in mask}) > 1
    total, near = 0.0, 0
    for adapter, s, t, mask in zip(method.adapters, student.features, teacher.features, masks, strict=True):
        adapted = adapter(s).detach().double()
        for image, row, column in mask.nonzero().tolist():
            near += 1
            difference = adapted[image, :, row, column] - t[image, :, row, column].double()
            total += sum(float(d) ** 2 for d in difference)
    loss = method(student, teacher, TARGETS)
    assert float(loss.detach()) == pytest.approx(total / (2 * near), rel=1e-5)


def test_the_loss_is_a_sum_over_channels() -> None:
    """With a weight meant for a sum, a mean over channels would make the loss vanish."""
    adapted, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mask = torch.rand(2, 4, 5) < 0.5
    near, cells = mask.sum(), mask.nonzero(as_tuple=True)
    once = imitation_loss(adapted, teacher, mask, near)
    twice = imitation_loss(adapted.repeat(1, 2, 1, 1), teacher.repeat(1, 2, 1, 1), mask, near)
    torch.testing.assert_close(twice, 2 * once)
    vectors = [feature.permute(0, 2, 3, 1)[cells] for feature in (adapted, teacher)]
    torch.testing.assert_close(sparse_imitation_loss(*vectors, near), once)
    torch.testing.assert_close(sparse_imitation_loss(*(v.repeat(1, 2) for v in vectors), near), 2 * once)


def test_the_whole_method_is_a_sum_over_channels() -> None:
    student, teacher = views()
    method = prepared(FGFI(), student, teacher)
    doubled = View(
        [feature.repeat(1, 2, 1, 1) for feature in teacher.features],
        [Level(2 * level.channels, level.stride, level.grid) for level in teacher.levels],
        IMAGE,
    )
    wide = prepared(FGFI(), student, doubled)
    with torch.no_grad():
        for adapter, wider in zip(method.adapters, wide.adapters, strict=True):
            wider.conv.weight.copy_(adapter.conv.weight.repeat(2, 1, 1, 1))
            wider.conv.bias.copy_(adapter.conv.bias.repeat(2))
    torch.testing.assert_close(wide(student, doubled, TARGETS), 2 * method(student, teacher, TARGETS))


def test_a_batch_of_two_equal_images_has_the_loss_of_one() -> None:
    adapted, teacher, mask = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 4, 5), torch.rand(1, 4, 5) < 0.5
    once = imitation_loss(adapted, teacher, mask, mask.sum())
    adapted, teacher, mask = (torch.cat((x, x)) for x in (adapted, teacher, mask))
    torch.testing.assert_close(imitation_loss(adapted, teacher, mask, mask.sum()), once)


# --- dense and sparse ---


def masks_of(kind: str) -> list[Tensor]:
    masks = [torch.zeros(2, *size, dtype=torch.bool) for size in SIZES]
    if kind == "one cell":
        masks[0][1, 3, 4] = True
    elif kind == "border":
        for mask in masks:
            mask[:, 0], mask[:, -1], mask[..., 0], mask[..., -1] = True, True, True, True
    else:
        generator = torch.Generator().manual_seed(5)
        masks = [torch.rand(mask.shape, generator=generator) < float(kind) for mask in masks]
    return masks


@pytest.mark.parametrize("kind", ["one cell", "border", "0", "0.02", "0.1", "0.3", "0.7", "1"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("rectify", ["always", "never"])
def test_dense_and_sparse_are_equal(kind: str, kernel: int, layout: torch.memory_format, rectify: str) -> None:
    student, teacher = views(layout=layout)
    results = []
    for sparse_below in (0.0, 1.1):
        method = Given(1.0, kernel_size=kernel, rectify=rectify, sparse_below=sparse_below)
        method.given = masks_of(kind)
        results.append(loss_and_gradients(prepared(method, student, teacher), student, teacher, TARGETS))
    dense, sparse = results
    for mine, expected in zip(sparse, dense, strict=True):
        assert relative(mine, expected) < 2e-6
    assert (dense[0] > 0) == (kind != "0")


def test_sparse_evaluation_is_used_below_the_share_of_near_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[int] = []
    original = Adapter.at
    monkeypatch.setattr(Adapter, "at", lambda self, f, cells: visited.append(len(cells[0])) or original(self, f, cells))
    student, teacher = views()
    method = prepared(Given(sparse_below=0.25), student, teacher)
    fine, coarse = (torch.zeros(2, *size, dtype=torch.bool) for size in SIZES)
    fine.view(-1)[:47], coarse.view(-1)[:12] = True, True  # of 192 and 48 cells: 24.5 % and 25 %
    method.given = [fine, coarse]
    method(student, teacher, TARGETS)
    assert visited == [47]


def test_the_share_is_that_of_the_kind_of_device_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "SPARSE_BELOW", {"cpu": 0.25, "cuda": 0.9})
    visited: list[int] = []
    original = Adapter.at
    monkeypatch.setattr(Adapter, "at", lambda self, f, cells: visited.append(len(cells[0])) or original(self, f, cells))
    student, teacher = views()
    method = prepared(Given(), student, teacher)
    masks = [torch.zeros(2, *size, dtype=torch.bool) for size in SIZES]
    masks[0].view(-1)[:47], masks[1].view(-1)[:12] = True, True  # 24.5 % and 25 %, as above
    method.given = masks
    method(student, teacher, TARGETS)
    assert visited == [47]
    on_meta = [replace(view, features=[one.to("meta") for one in view.features]) for view in (student, teacher)]
    method.to("meta")(*on_meta, TARGETS)
    assert visited == [47, 47, 12], "a device of another kind has the accelerator's share"


def test_maps_of_another_stride_are_resized() -> None:
    """Where both maps cover the whole image, sampling at the teacher's cells is a plain resize."""
    student, teacher = views(student_sizes=((16, 24), (2, 3)), student_strides=(4, 32))
    method = prepared(FGFI(1.0, sparse_below=1.1), student, teacher)
    loss = method(student, teacher, TARGETS)
    masks = method.masks(teacher, TARGETS)
    expected = torch.zeros(())
    for adapter, s, t, mask in zip(method.adapters, student.features, teacher.features, masks, strict=True):
        adapted = torch.nn.functional.interpolate(adapter(s), t.shape[-2:], mode="bilinear", align_corners=False)
        expected = expected + ((adapted - t).square().sum(1)[mask]).sum()
    torch.testing.assert_close(loss, expected / (2 * sum(mask.sum() for mask in masks)))
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(student.features)))


# --- precision ---


def test_losses_are_reduced_in_float32() -> None:
    """In bfloat16 257 is 256, and (1 + 1/128)^2 loses its last bits."""
    adapted = torch.ones(1, 1, 1, 257, dtype=torch.bfloat16)
    mask = torch.ones(1, 1, 257, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        loss = imitation_loss(adapted, torch.zeros_like(adapted), mask, 1.0)
        sparse = sparse_imitation_loss(adapted.view(257, 1), torch.zeros(257, 1, dtype=torch.bfloat16), 1.0)
        fine = sparse_imitation_loss(torch.full((1, 1), 1 + 1 / 128, dtype=torch.bfloat16), torch.zeros(1, 1), 0.5)
    assert loss == sparse == 128.5 and loss.dtype == sparse.dtype == torch.float32
    assert fine == (1 + 1 / 128) ** 2


@pytest.mark.parametrize("sparse_below", [0.0, 1.1])
def test_autocast_changes_the_loss_by_less_than_one_percent(sparse_below: float) -> None:
    student, teacher = views()
    method = prepared(FGFI(sparse_below=sparse_below), student, teacher)
    exact = loss_and_gradients(method, student, teacher, TARGETS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss_and_gradients(method, student, teacher, TARGETS)
    assert mixed[0].dtype == torch.float32
    assert 0 < relative(mixed[0], exact[0]) < 0.01  # above 0: the convolution did run in bfloat16
    assert all(relative(mine, expected) < 0.05 for mine, expected in zip(mixed, exact, strict=True))


# --- limiting cases and options ---


@pytest.mark.parametrize("sparse_below", [0.0, 1.1])
@pytest.mark.parametrize("sizes", [SIZES, ((5, 7), (9, 4))], ids=["paired", "resized"])
def test_no_boxes_give_zero_with_a_gradient_path(sparse_below: float, sizes: Sequence[tuple[int, int]]) -> None:
    student, teacher = views(student_sizes=sizes)
    method = prepared(FGFI(sparse_below=sparse_below), student, teacher)
    loss = method(student, teacher, EMPTY)
    assert loss == 0
    loss.backward()
    for tensor in (*student.features, *method.parameters()):
        assert tensor.grad is not None and not tensor.grad.any()


def test_an_image_without_boxes_does_not_change_the_other() -> None:
    student, teacher = views()
    method = prepared(FGFI(), student, teacher)
    both = method(student, teacher, [TARGETS[0], toy_target()])
    halves = [View([f[:1] for f in view.features], view.levels, IMAGE) for view in (student, teacher)]
    torch.testing.assert_close(both, method(*halves, TARGETS[:1]))


@pytest.mark.parametrize(
    ("rectify", "teacher_rectified", "expected"),
    [("auto", True, True), ("auto", False, False), ("always", False, True), ("never", True, False)],
)
def test_rectify_decides_whether_adapters_end_in_a_relu(rectify: str, teacher_rectified: bool, expected: bool) -> None:
    student, teacher = views()
    method = prepared(FGFI(rectify=rectify), student, teacher, rectified=teacher_rectified)
    assert [adapter.rectified for adapter in method.adapters] == [expected, expected]


def test_options_reach_the_masks() -> None:
    _, teacher = views()
    counts = {
        (psi, assignment): [int(m.sum()) for m in FGFI(psi=psi, assignment=assignment).masks(teacher, TARGETS)]
        for psi, assignment in ((0.5, "global"), (0.8, "global"), (0.5, "per_level"), (0.5, "by_size"))
    }
    assert sum(counts[0.5, "global"]) > sum(counts[0.8, "global"]) > 0
    assert counts[0.5, "per_level"] != counts[0.5, "global"]
    # These box ranges assign every box to the coarse level.
    levels = [Level(5, 8, toy_grid, (0.0, 1.0)), Level(5, 16, toy_grid, (1.0, 1e4))]
    ranged = View(teacher.features, levels, IMAGE)
    fine, coarse = FGFI(assignment="by_size").masks(ranged, TARGETS)
    assert not fine.any() and coarse.any()
    assert counts[0.5, "by_size"] != [0, int(coarse.sum())]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"psi": 1.5}, "psi"),
        ({"assignment": "best"}, "assignment"),
        ({"kernel_size": 2}, "kernel_size"),
        ({"rectify": "yes"}, "rectify"),
        ({"init_std": 0.0}, "init_std"),
    ],
)
def test_options_out_of_range_raise_with_their_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(EyasError, match=f"FGFI: {message}"):
        FGFI(**options)
