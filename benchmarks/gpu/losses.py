"""Mask and imitation loss at every size: the mask on the host against brute force on the device, and where the sparse
form of the loss begins to take longer than the dense one, which is what `eyas.methods.imitation.SPARSE_BELOW` is set
from.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.cases import Bench, Case, Row
from benchmarks.gpu.precision import autocast
from benchmarks.loss import scattered
from benchmarks.mask import brute_force, pyramid, random_boxes, single_level
from benchmarks.timing import device_mib, medians, peak_mib
from eyas.methods import FGFI, LevelPair, imitation_loss
from eyas.methods.imitation import FeatureImitation
from eyas.ops.anchors import AnchorGrid
from eyas.ops.near_objects import near_object_masks
from eyas.types import Level, Target, View

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)


class Map(NamedTuple):
    """A level of student and teacher: channels of both, rows and columns, images."""

    name: str
    channels: int
    height: int
    width: int
    batch: int = 8
    dtype: torch.dtype = torch.bfloat16


FPN = tuple(
    Map(f"FPN, stride {stride}", 256, math.ceil(800 / stride), math.ceil(1333 / stride)) for stride in (4, 8, 16, 32)
)
MAPS = (
    *FPN,
    FPN[1]._replace(name="FPN, stride 8, float32", dtype=torch.float32),
    Map("ResNet C4", 1024, 50, 84),
    Map("paper", 512, 38, 63),
    Map("small student", 64, 40, 40, 16),
)
"""At 800 x 1333, but for the last two."""
TINY_MAPS = (Map("tiny", 8, 6, 9, 2, torch.float32),)


class Given(FGFI):
    """FGFI on given masks."""

    given: Sequence[Tensor] = ()

    def masks(self, teacher: View, targets: Sequence[Target]) -> list[Tensor]:
        return list(self.given)


def cases(bench: Bench) -> list[Case]:
    found: dict[str, float] = {}
    maps, boxes = (TINY_MAPS, (3,)) if bench.tiny else (MAPS, (7, 30, 100))
    losses = [Case(f"loss, {each.name}", partial(loss, each, bench, found)) for each in maps]
    return [
        *losses,
        Case("crossover", partial(summary, bench.device, found)),
        Case("mask", partial(masks, boxes, bench)),
    ]


def loss(size: Map, bench: Bench, found: dict[str, float]) -> Iterator[Row]:
    """Both forms of the loss at every share of near cells, and where they cross, which is put into ``found``."""
    shares = (0.1, 0.6) if bench.tiny else SHARES
    ratios = []
    for share in shares:
        sides = loss_sides(size, share, torch.device(bench.device))
        check_equal(sides["sparse"](), sides["dense"](), size.dtype)
        seconds = medians(sides, 1 if bench.tiny else 3)
        ratios.append(seconds["dense"] / seconds["sparse"])
        times = {f"{side}_seconds": value for side, value in seconds.items()}
        yield {"share": share, **times, **memory(sides, bench.device), "dense over sparse": ratios[-1]}
    found[size.name] = crossover(shares, ratios)
    yield {"crossover": found[size.name]}


def crossover(shares: Sequence[float], ratios: Sequence[float]) -> float:
    """The share from which the sparse form takes longer, by interpolating the logarithm of dense over sparse.

    0 where it takes longer at every share, 1 where at none. Noise may cross more than once: the first time counts.
    """
    if ratios[0] < 1:
        return 0.0
    for (low, above), (high, below) in pairwise(zip(shares, ratios, strict=True)):
        if below < 1:
            return low + (high - low) * math.log(above) / (math.log(above) - math.log(below))
    return 1.0


def summary(device: str, found: dict[str, float]) -> Iterator[Row]:
    """What `SPARSE_BELOW` of this kind of device should be set from."""
    values = found.values()
    yield {
        "device": device,
        "sparse_below": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "set from": "the smallest crossover: below it the sparse form is ahead at every size",
    }


def loss_sides(size: Map, share: float, device: torch.device) -> dict[str, Callable[[], object]]:
    """One forward and backward pass of each form of the loss, as a training step has them.

    ``sparse`` and ``dense`` are what FGFI runs on either side of ``sparse_below``: from a mask on the host to the
    gradients of features and adapter. ``written`` is equation 2 on whole maps, with the mask on the device.
    """
    generator = torch.Generator().manual_seed(0)
    shape = size.batch, size.channels, size.height, size.width
    own, teachers = (
        torch.randn(shape, generator=generator).to(device, size.dtype, memory_format=torch.channels_last)
        for _ in range(2)
    )
    cells = (size.height, size.width)
    mask = torch.stack([scattered(share, generator, cells) for _ in range(size.batch)])
    level, image = Level(size.channels, 8), (8 * size.height, 8 * size.width)
    student, teacher = View([own.requires_grad_()], [level], image), View([teachers], [level], image)
    methods: dict[str, FeatureImitation] = {}
    for name, below in (("sparse", 1.1), ("dense", 0.0)):
        torch.manual_seed(0)
        method = Given(1.0, init_std=0.01, sparse_below=below)
        method.given = [mask]
        method.setup([LevelPair("student", level, "teacher", level)])
        methods[name] = method.to(device, memory_format=torch.channels_last)
    on_device = mask.to(device)

    def written() -> Tensor:
        (adapter,) = methods["dense"].adapters
        return imitation_loss(adapter(own), teachers, on_device, int(mask.sum()))

    forms = {name: partial(method, student, teacher, []) for name, method in methods.items()} | {"written": written}
    learned = {name: [own, *methods.get(name, methods["dense"]).parameters()] for name in forms}

    def step(name: str) -> list[Tensor]:
        with autocast(device, size.dtype):
            value = forms[name]()
        return [value.detach(), *torch.autograd.grad(value, learned[name])]

    return {name: partial(step, name) for name in forms}


def check_equal(one: object, other: object, dtype: torch.dtype) -> None:
    """Raises AssertionError where the two forms differ by more than the rounding of the type."""
    assert isinstance(one, list) and isinstance(other, list)
    limit = 1e-3 if dtype == torch.float32 else 3e-2
    for mine, expected in zip(one, other, strict=True):
        difference = (mine.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-12)
        assert difference < limit, f"sparse and dense differ by {float(difference):.2g}, allowed {limit:g}"


def memory(sides: dict[str, Callable[[], object]], device: str) -> Row:
    """``SIDE_mib``: the peak memory of a run of each side."""
    if device != "cuda":
        return peak_mib(sides)
    return {f"{name}_mib": device_mib(run) for name, run in sides.items()}


def masks(boxes: Sequence[int], bench: Bench) -> Iterator[Row]:
    """The interval mask on the host, as Eyas makes it while the device runs, against brute force on the device."""
    levels = {"single_level": single_level()} if bench.tiny else {"pyramid": pyramid(), "single_level": single_level()}
    for name, grids in levels.items():
        anchors = torch.cat([grid.anchors().double().view(-1, 4) for grid in grids]).to(bench.device)
        for number in boxes:
            yield {"name": name, "boxes": number, **mask_row(grids, anchors, random_boxes(number), bench)}


def mask_row(grids: Sequence[AnchorGrid], anchors: Tensor, objects: Tensor, bench: Bench) -> Row:
    on_device = objects.to(bench.device)
    sides = {
        "interval": lambda: near_object_masks(grids, [objects]),
        "brute_force": lambda: brute_force(anchors, grids, on_device),
    }
    mine, others = (run() for run in sides.values())
    near = sum(int(mask.sum()) for mask in mine)
    differ = sum(int((mask != other.cpu()).sum()) for mask, other in zip(mine, others, strict=True))
    seconds = medians(sides, 1 if bench.tiny else 5)
    return {
        "anchors": len(anchors),
        "near_cells": near,
        "cells that differ": differ,
        "within": differ <= 1e-4 * near,  # a device may round an IoU at the threshold otherwise
        **{f"{side}_seconds": value for side, value in seconds.items()},
        "brute force over interval": seconds["brute_force"] / seconds["interval"],
    }
