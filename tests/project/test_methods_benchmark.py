"""`python -m benchmarks.methods`: what counts as a method's own products, and every method on a tiny pair."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from benchmarks.methods import TINY, beyond, products_of, replay, rows
from torch.nn import functional as F

from eyas.commands.names import METHODS


def test_products_are_counted_forward_and_backward_and_can_be_run_again() -> None:
    images, kernel = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3, requires_grad=True)
    factor = torch.rand(4, 5, requires_grad=True)

    def step() -> None:
        (F.conv2d(images, kernel).mean((2, 3)) @ factor).sum().backward()

    found = products_of(step)
    names = sorted(func.name() for func, _ in found.elements())
    assert names == ["aten::convolution", "aten::convolution_backward", "aten::mm", "aten::mm", "aten::mm"]
    again = products_of(replay(found, torch.device("cpu")))
    assert again == found
    assert not found - products_of(step)


def test_a_product_in_another_layout_is_the_same() -> None:
    images, kernel, factor = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3), torch.rand(3, 5)
    plain = products_of(lambda: F.conv2d(images, kernel))
    both = products_of(
        lambda: (F.conv2d(images.to(memory_format=torch.channels_last), kernel), images[0, 0, :, :3] @ factor)
    )
    own = beyond(both, plain)
    assert [func.name() for func, _ in own.elements()] == ["aten::mm"]
    assert beyond(both, Counter()) == both
    assert beyond(plain + plain, plain) == plain, "one of two is left"


@pytest.mark.slow
def test_every_method_has_a_row(tmp_path: Path) -> None:
    found = rows((TINY,), list(METHODS), 1, torch.device("cpu"), tmp_path)
    assert [row["name"] for row in found] == [f"tiny: {name}" for name in METHODS]
    measured = [row for row in found if "left out" not in row]
    assert {"tiny: fgfi", "tiny: fitnets", "tiny: vanilla"} <= {row["name"] for row in measured}
    for row in measured:
        assert float(row["ratio"]) > 0 and float(row["distilled_mib"]) > 0
    of_adapters = {str(row["name"]): int(row["products"]) for row in measured}
    assert of_adapters["tiny: fitnets"] == 2, "an adapter of one level: a convolution and its backward pass"
    assert "makes no proposals" in str(next(row for row in found if row["name"] == "tiny: roi_mimic")["left out"])
