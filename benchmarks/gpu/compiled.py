"""Training steps compiled up to the levels (``--run.compile``) against eager ones, at 800 x 1333 in bfloat16."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.cases import Bench, Case, Row
from benchmarks.gpu.steps import images, pairs
from benchmarks.sides import Pair, Sides
from benchmarks.step import ratios
from benchmarks.timing import turns

NAMES = ("plain", "teacher", "products", "distilled", "cached")


def cases(bench: Bench) -> list[Case]:
    return [Case(pair.name, partial(compiled, pair, bench)) for pair in pairs(bench)]


def compiled(pair: Pair, bench: Bench) -> Iterator[Row]:
    """What compiling takes, the ratios between compiled sides, and the eager step over the compiled one."""
    torch.compiler.reset()  # or the graphs of the pair before would count against the limit of recompilations
    device, repeats = torch.device(bench.device), 1 if bench.tiny else 5
    backend = "aot_eager" if bench.tiny else "inductor"  # inductor would call a C++ compiler on a CPU
    began = time.monotonic()
    sides = Sides(pair, 3, images(bench), bench.folder / f"compiled {pair.name}", device, backend=backend)
    steps = sides.steps(NAMES)
    for run in (*steps.values(), *steps.values()):
        run()
    yield {"name": f"{pair.name}: until compiled", "seconds": round(time.monotonic() - began, 1), "backend": backend}
    yield from ratios(steps, f"{pair.name}, compiled", sum(sides.cells), repeats)
    del sides
    names = ("plain", "distilled")
    other = Sides(pair, 3, images(bench), bench.folder / f"eager {pair.name}", device).steps(names)
    both = {**{f"{name}, compiled": steps[name] for name in names}, **{f"{name}, eager": other[name] for name in names}}
    found = turns(both, repeats)
    for name in names:
        ratio = statistics.median(turn[f"{name}, eager"] / turn[f"{name}, compiled"] for turn in found)
        yield {"name": f"{pair.name}: {name}, eager over compiled", "ratio": ratio}
