"""Training steps at 800 x 1333 in bfloat16, by `benchmarks.step`: against the floor, with memory, waits and shares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.cases import Bench, Case, Row
from benchmarks.sides import DIGITS, GPU_PAIRS, Pair, Sides
from benchmarks.step import compare, convolution_share
from eyas.data import DataSource, read
from eyas.data.digits import DigitsSpec, write_digits

TINY_PAIR = Pair(
    "ShuffleDet 0.25x -> 0.25x, batch 2",
    "shuffledet",
    {"options": {**DIGITS, "width": 0.25, "dropout": 0.0}},
    {"options": {**DIGITS, "width": 0.25, "dropout": 0.0}},
    size=(64, 64),
    batch=2,
)


def cases(bench: Bench) -> list[Case]:
    """Every side of every pair, eager; the smaller batch of all pairs first."""
    return [Case(pair.name, partial(eager, pair, bench)) for pair in pairs(bench)]


def pairs(bench: Bench) -> tuple[Pair, ...]:
    return (TINY_PAIR,) if bench.tiny else GPU_PAIRS


def eager(pair: Pair, bench: Bench) -> Iterator[Row]:
    sides = Sides(pair, 3, images(bench), bench.folder / pair.name, torch.device(bench.device))
    yield from compare(sides, repeats=1 if bench.tiny else 5)
    if bench.device != "cuda":  # compare adds the card's rows; here what of them a CPU can tell
        share = 1 - convolution_share(sides.steps(["distilled"])["distilled"], bench.device)
        yield {"name": f"{pair.name}: distilled, time that is no convolution", "share": share}


def images(bench: Bench) -> DataSource:
    """As many of the demo's images as the largest batch has."""
    spec = DigitsSpec(train_images=2 if bench.tiny else 16, val_images=1)
    return read(write_digits(bench.folder / f"digits-{spec.train_images}", spec), "train")
