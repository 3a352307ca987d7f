"""The adaptation layer at given cells against the dense convolution: values, gradients, cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from eyas.methods.adapter import Adapter, Cells, convolve_at, patches_at
from helpers.toys import relative

H, W = 6, 9
BORDER = [(0, 0, 0), (0, 0, W - 1), (1, H - 1, 0), (1, H - 1, W - 1), (0, 0, 4), (1, 3, 0)]


def some_cells(share: float, batch: int = 2, seed: int = 0) -> Cells:
    mask = torch.rand(batch, H, W, generator=torch.Generator().manual_seed(seed)) < share
    return mask.nonzero(as_tuple=True)


def listed(cells: list[tuple[int, int, int]]) -> Cells:
    image, row, column = torch.tensor(cells).unbind(1)
    return image, row, column


CELLS = {
    "none": some_cells(0.0),
    "one": listed([(1, 2, 3)]),
    "border": listed(BORDER),
    **{f"{share:.0%}": some_cells(share, seed=int(share * 100)) for share in (0.03, 0.1, 0.4, 0.8)},
    "all": some_cells(1.1),
}


def made(kernel: int, layout: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(kernel)
    features = torch.randn(2, 4, H, W, generator=generator, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(5, 4, kernel, kernel, generator=generator, dtype=dtype).to(memory_format=layout)
    bias = torch.randn(5, generator=generator, dtype=dtype)
    return features.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_sparse_values_and_gradients_equal_the_dense_convolution(
    cells: Cells, kernel: int, layout: torch.memory_format, dtype: torch.dtype, limit: float
) -> None:
    inputs = made(kernel, layout, dtype)
    dense = F.conv2d(*inputs, padding=kernel // 2).permute(0, 2, 3, 1)[cells]
    sparse = convolve_at(inputs[0], cells, *inputs[1:])
    assert sparse.shape == (len(cells[0]), 5)
    assert relative(sparse, dense) < limit
    # An uneven upstream gradient, so that swapped cells, channels or kernel positions cannot cancel.
    upstream = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for mine, expected in zip(
        torch.autograd.grad(sparse, inputs, upstream), torch.autograd.grad(dense, inputs, upstream), strict=True
    ):
        assert mine.shape == expected.shape
        assert relative(mine, expected) < limit


def test_patches_are_zero_padded_and_go_row_by_row() -> None:
    features = torch.arange(1.0, 1 + 2 * 2 * 3).view(1, 2, 2, 3)  # channel 0: 1..6, channel 1: 7..12
    patch = patches_at(features, listed([(0, 0, 2)]), 3).view(3, 3, 2)
    assert patch[..., 0].tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert patch[..., 1].tolist() == [[0, 0, 0], [8, 9, 0], [11, 12, 0]]


def test_a_patch_does_not_reach_into_the_next_image() -> None:
    features = torch.zeros(2, 1, 2, 2)
    features[1] = 100.0
    assert patches_at(features, listed([(0, 1, 1)]), 3).abs().sum() == 0


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_at_is_forward_at_the_cells(rectified: bool, layout: torch.memory_format) -> None:
    adapter = Adapter(4, 5, rectified=rectified, init_std=0.3).to(memory_format=layout)
    features, cells = made(3, layout, torch.float32)[0], CELLS["40%"]
    dense = adapter(features)
    assert relative(adapter.at(features, cells), dense.permute(0, 2, 3, 1)[cells]) < 1e-6
    assert (dense.min() >= 0) == rectified
    assert dense.shape == (2, 5, H, W)


def test_initial_weights_are_a_truncated_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    adapter = Adapter(16, 32, init_std=1e-4)
    weight = adapter.conv.weight.detach()
    assert weight.abs().max() <= 2e-4
    # Truncation at two sigma leaves 0.880 of the standard deviation.
    assert float(weight.std()) == pytest.approx(0.88e-4, rel=0.05)
    assert adapter.conv.bias is not None and not adapter.conv.bias.any()


def test_even_kernels_raise() -> None:
    with pytest.raises(ValueError, match="odd, got 2"):
        Adapter(1, 1, kernel_size=2)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_sparse_flops_are_the_share_of_cells_of_the_dense_ones(share: float) -> None:
    """Forward and backward, counted instead of timed; `benchmarks/loss.py` measures seconds."""
    adapter = Adapter(8, 8)
    features = torch.rand(1, 8, 40, 50, requires_grad=True)
    cells = (torch.arange(2000).view(1, 40, 50) < share * 2000).nonzero(as_tuple=True)
    with FlopCounterMode(display=False) as dense:
        adapter(features).sum().backward()
    with FlopCounterMode(display=False) as sparse:
        adapter.at(features, cells).sum().backward()
    assert sparse.get_total_flops() == pytest.approx(share * dense.get_total_flops(), rel=1e-6)
