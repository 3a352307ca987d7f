"""Maps of different size are compared at the same position of the image, whatever each detector pads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eyas.methods.imitation
from eyas import BoxMask, CustomDetector, Distiller, FitNets
from eyas.methods.cells import covered_extent, sample_cells
from eyas.methods.imitation import FeatureImitation
from eyas.ops.anchors import AnchorGrid, shapes_to_cell_anchors
from eyas.types import GridBuilder, Level, Target


class Pooling(nn.Module):
    """Averages each cell of ``stride`` pixels, so that the map of a ramp says where its cells are centred.

    The image is padded with zeros to a multiple of ``divisor`` on the right and at the bottom.
    """

    def __init__(self, stride: int, divisor: int) -> None:
        super().__init__()
        self.divisor, self.factor = divisor, nn.Parameter(torch.ones(()))
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        height, width = (-side % self.divisor for side in images.shape[-2:])
        pooled: Tensor = self.pool(F.pad(images, (0, width, 0, height)) * self.factor)
        return pooled


def detector(stride: int, divisor: int) -> CustomDetector:
    network = Pooling(stride, divisor)
    return CustomDetector(
        network,
        ("thing",),
        losses=lambda net, images, _: {"loss": net(images).mean()},
        levels={"pool": Level(3, stride, grid_of(stride))},
    )


def grid_of(stride: int) -> GridBuilder:
    """One square anchor in each cell of ``stride`` pixels."""
    half = stride / 2
    anchors = shapes_to_cell_anchors([(stride, stride)])
    return lambda size, _: AnchorGrid(anchors, size, (stride, stride), (half, half))


def ramp(height: int, width: int) -> Tensor:
    """x, y and 0 in pixels over 10,000, at the centres of pixels: (1, 3, height, width)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)))[None] / 10_000


def identity(method: FeatureImitation) -> None:
    for adapter in method.adapters:
        weight = adapter.conv.weight
        with torch.no_grad():
            weight.zero_()
            weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = torch.eye(3)


def displacement(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    scale: float,
    student: tuple[int, int],
    teacher: tuple[int, int],
) -> tuple[float, int]:
    """The largest distance between compared cells, in pixels of the teacher; and how many cells that are.

    Only cells of whole pixels of the image count. Images have a size in the student's frame; each detector has a stride
    and a divisor.
    """
    height, width = (round(side * scale) for side in size)
    margin = 2 * max(student[0] * scale, teacher[0])
    box = torch.tensor([[margin, margin, width - margin, height - margin]])
    target: Target = {"boxes": box, "labels": torch.tensor([0])}
    method = BoxMask(1.0, kernel_size=3, rectify="never")
    distiller = Distiller(
        detector(*student), detector(*teacher), method, pairs={"pool": "pool"}, teacher_scale=scale
    ).train()
    identity(method)
    compared: list[tuple[Tensor, Tensor]] = []

    def seen(adapted: Tensor, vectors: Tensor, num_cells: Tensor) -> Tensor:
        compared.append((adapted, vectors))
        return (adapted - vectors).sum()

    with monkeypatch.context() as patch:
        patch.setattr(eyas.methods.imitation, "sparse_imitation_loss", seen)
        distiller(ramp(height, width), [target])
    ((adapted, vectors),) = compared
    return float((adapted - vectors).detach().abs().max()) * 10_000, len(vectors.flatten(0, -2))


@pytest.mark.parametrize(
    ("size", "scale", "student", "teacher"),
    [
        ((480, 640), 1.5, (8, 32), (16, 32)),  # the teacher pads 720 rows to 736
        ((320, 320), 1.25, (8, 32), (8, 32)),
        ((384, 1248), 1.5, (8, 32), (16, 32)),
        ((333, 517), 1.5, (8, 32), (16, 32)),
        ((301, 499), 2.0, (8, 32), (16, 32)),  # the same cells
        ((299, 501), 3.0, (8, 32), (32, 32)),
        ((331, 517), 1.0, (16, 1), (16, 32)),  # the student does not pad
        ((331, 517), 1.0, (16, 32), (16, 1)),  # the teacher does not pad
        ((351, 477), 1.0, (8, 1), (16, 32)),
        ((351, 477), 1.0, (16, 64), (8, 1)),
    ],
)
def test_a_ramp_is_compared_at_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    scale: float,
    student: tuple[int, int],
    teacher: tuple[int, int],
) -> None:
    distance, cells = displacement(monkeypatch, size, scale, student, teacher)
    assert distance < 0.01 * teacher[0] and cells > 50


def test_random_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    for scale in (1.0, 1.25, 1.5, 2.0, 3.0):
        for height, width in torch.randint(200, 420, (6, 2), generator=random).tolist():
            stride = 16 if scale == 1 else 8
            distance, _ = displacement(monkeypatch, (height, width), scale, (stride, 1), (16, 32))
            assert distance < 0.16, (scale, height, width)


def test_a_level_of_the_same_step_stays_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adaptation layer runs at the imitated cells alone, though the maps have 32 and 33 columns."""
    student, teacher = detector(16, 1), detector(16, 32)
    method = BoxMask(1.0, rectify="never")
    distiller = Distiller(student, teacher, method).train()
    box: Target = {"boxes": torch.tensor([[100.0, 100.0, 140.0, 150.0]]), "labels": torch.tensor([0])}
    monkeypatch.setattr(method.adapters[0], "forward", lambda features: pytest.fail("the whole map was adapted"))
    assert distiller(torch.rand(1, 3, 331, 517), [box])["box_mask"] > 0


def test_cells_beyond_the_students_map_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student of 2 x 3 cells, a teacher of 4 x 4: one N_p, and only the common cells."""
    method = FitNets(1.0, init_std=0.1)
    distiller = Distiller(detector(8, 1), detector(8, 32), method, pairs={"pool": "pool"}).train()
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    empty: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    pooled = F.avg_pool2d(images, 8)
    adapted = method.adapters[0](pooled)
    expected = (adapted - pooled).square().sum() / (2 * 6)
    torch.testing.assert_close(distiller(images, [empty])["fitnets"], expected)


def test_sampling_by_hand() -> None:
    """Cells twice as large lie between two cells, half as large at quarters, and the border is repeated."""
    row = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).expand(1, 1, 6, 6)
    assert sample_cells(row, (3, 3), 2.0)[0, 0, 0].tolist() == pytest.approx([0.5, 2.5, 4.5])
    halves = sample_cells(row, (12, 12), 0.5)[0, 0, 7]
    assert halves.tolist() == pytest.approx(
        [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5], abs=1e-5
    )


@pytest.mark.parametrize(
    ("size", "step", "extent"),
    [((6, 9), 1.0, (6, 9)), ((6, 9), 2.0, (3, 4)), ((5, 7), 4 / 3, (4, 5)), ((2, 3), 0.5, (4, 6))],
)
def test_the_extent_has_the_cells_whose_centres_lie_on_the_map(
    size: tuple[int, int], step: float, extent: Sequence[int]
) -> None:
    found = covered_extent(torch.zeros(1, 1, *size), step)
    assert found == extent
    for count, cells in zip(found, size, strict=True):
        assert (count - 0.5) * step < cells <= (count + 0.5) * step
