"""The imitation loss: dense against sparse, forward and backward.

``python -m benchmarks.loss [--json FILE]``. The adaptation layer, 512 to 512 channels with a 3 x 3 kernel on maps of
38 x 63 cells, is evaluated everywhere or only at the near cells; gradients flow to its weights and to the student's
features. ``ratio`` is dense over sparse. Every run also checks that both sides give the same loss and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch import Tensor

from benchmarks.timing import Row, medians, options, peak_mib, report, row
from eyas.methods.adapter import Adapter
from eyas.methods.imitation import imitation_loss, sparse_imitation_loss
from eyas.types import Size

CHANNELS, HEIGHT, WIDTH = 512, 38, 63


def scattered(share: float, generator: torch.Generator, size: Size = (HEIGHT, WIDTH)) -> Tensor:
    """A mask, (height, width), of single cells, with this share of all cells."""
    cells = math.prod(size)
    order = torch.randperm(cells, generator=generator)
    return (order < round(share * cells)).view(size)


def boxes(share: float, generator: torch.Generator) -> Tensor:
    """A (HEIGHT, WIDTH) mask of rectangles of 3 to 9 cells a side, cut off in reading order at this share of cells."""
    mask, limit = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), round(share * HEIGHT * WIDTH)
    while mask.sum() < limit:
        height, width = torch.randint(3, 10, (2,), generator=generator).tolist()
        top = int(torch.randint(0, HEIGHT - height, (), generator=generator))
        left = int(torch.randint(0, WIDTH - width, (), generator=generator))
        mask[top : top + height, left : left + width] = True
    return mask & (mask.flatten().cumsum(0).view_as(mask) <= limit)


def dense(adapter: Adapter, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return imitation_loss(adapter(student), teacher, mask, mask.sum())


def sparse(adapter: Adapter, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    image, rows, columns = mask.nonzero(as_tuple=True)
    vectors = teacher.permute(0, 2, 3, 1)[image, rows, columns]
    return sparse_imitation_loss(adapter.at(student, (image, rows, columns)), vectors, len(image))


def step(loss: Callable[..., Tensor], adapter: Adapter, student: Tensor, teacher: Tensor, mask: Tensor) -> list[Tensor]:
    """The loss and its gradients with respect to the student's features and the adapter's parameters."""
    value = loss(adapter, student, teacher, mask)
    return [value.detach(), *torch.autograd.grad(value, (student, *adapter.parameters()))]


def compare(batch: int, layout: str, shape: Callable[..., Tensor], share: float, repeats: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    maps = torch.randn(2, batch, CHANNELS, HEIGHT, WIDTH, generator=generator)
    student, teacher = (features.contiguous(memory_format=memory) for features in maps)
    adapter = Adapter(CHANNELS, CHANNELS, init_std=0.01).to(memory_format=memory)
    mask = torch.stack([shape(share, generator) for _ in range(batch)])
    arguments = adapter, student.requires_grad_(), teacher, mask
    sides = {loss.__name__: partial(step, loss, *arguments) for loss in (dense, sparse)}
    for one, other in zip(*(run() for run in sides.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(one.abs().max()))
    settings: Row = {"batch": batch, "layout": layout, "mask": shape.__name__, "share": share, **peak_mib(sides)}
    return row("imitation_loss", settings, medians(sides, repeats), baseline="dense", candidate="sparse")


def main() -> None:
    chosen = options("imitation loss: dense against sparse", repeats=3)
    cases = product((1, 2), ("contiguous", "channels_last"), (boxes, scattered), (0.02, 0.05, 0.1, 0.2, 0.4))
    report([compare(*case, chosen.repeats) for case in cases], chosen.json)


if __name__ == "__main__":
    main()
