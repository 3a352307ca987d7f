"""The step of every method against the least it can cost, and its memory.

``python -m benchmarks.methods [--pair TEXT] [--methods NAME ...] [--json FILE]``, on the ResNet pairs of
`benchmarks.step`. The floor is as there: the plain student's step, the teacher's forward pass up to its
last tap, and the method's own bare matrix products. These are found instead of derived, since each method has others:
they are the products and convolutions of a distilled step, forward and backward, that neither the plain step nor the
teacher's pass has, run again with random operands of the same shapes. All sides of a method run in turns on one batch.
A method that a pair does not suit has a row with the reason. ``--tiny`` shows in seconds that all of it works.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.sides import DIGITS, GPU_PAIRS, PAIRS, Pair, Sides, Step
from benchmarks.timing import Row, device_mib, parser, peak_mib, report, start, turns, write
from eyas.commands.methods import method_class
from eyas.commands.names import METHODS
from eyas.data import DataSource, read
from eyas.data.digits import DigitsSpec, write_digits
from eyas.types import EyasError

REPEATS = 7
TINY = Pair(
    "tiny",
    "shuffledet",
    {"options": {**DIGITS, "width": 0.25}},
    {"options": {**DIGITS, "width": 0.25}},
    size=(64, 64),
    batch=2,
)
aten = torch.ops.aten
PRODUCTS = (
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default),
    *(aten.convolution.default, aten.convolution_backward.default),
)
"""Operators that are matrix products, below autograd."""
Product = tuple[Any, tuple[Any, ...]]
"""An operator of `PRODUCTS` and its arguments; a tensor stands as its shape, strides and type."""


class Recorder(TorchDispatchMode):  # type: ignore[misc]  # torch does not type it
    """Counts the matrix products that run in its context, by operator and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.products[func, _shapes(args)] += 1
        return func(*args, **(kwargs or {}))


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (Tensor, tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(_shapes, value)) if isinstance(value, list | tuple) else value


def _operands(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple) and value[:1] == (Tensor,):
        _, shape, strides, dtype = value
        reach = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if all(shape) else 0
        return torch.randn(reach, device=device).to(dtype).as_strided(shape, strides)
    return [_operands(entry, device) for entry in value] if isinstance(value, tuple) else value


def products_of(run: Step) -> Counter[Product]:
    """The matrix products of one run, with random numbers of one seed."""
    torch.manual_seed(0)
    with Recorder() as recorder:
        run()
    return recorder.products


def beyond(products: Counter[Product], *others: Counter[Product]) -> Counter[Product]:
    """The products that none of the others have, in any layout: a gradient may come in another one and be the same."""
    left = Counter(without_strides(product) for other in others for product in other.elements())
    own: Counter[Product] = Counter()
    for product in products.elements():
        known = without_strides(product)
        if left[known]:
            left[known] -= 1
        else:
            own[product] += 1
    return own


def without_strides(value: Any) -> Any:
    if isinstance(value, tuple):
        return (*value[:2], value[3]) if value[:1] == (Tensor,) else tuple(map(without_strides, value))
    return value


def replay(products: Counter[Product], device: torch.device) -> Step:
    """A function that runs these products alone."""
    calls = [(func, _operands(shapes, device)) for func, shapes in products.elements()]

    def run() -> None:
        with torch.no_grad():
            for func, operands in calls:
                func(*operands)

    return run


def measure(sides: Sides, repeats: int) -> Row:
    """The row of a method on a pair: its step over the floor and over the plain step, and peak memory beside."""
    steps = sides.steps(("plain", "teacher", "distilled"))
    # Each of its first run, when student and teacher have the same weights on all sides.
    plain, teacher, distilled = (products_of(steps[name]) for name in ("plain", "teacher", "distilled"))
    own = beyond(distilled, plain, teacher)
    steps["products"] = replay(own, sides.device)
    found = turns(steps, repeats)
    median = {name: statistics.median(turn[name] for turn in found) for name in steps}
    floors = [turn["plain"] + turn["teacher"] + turn["products"] for turn in found]
    ratios = [turn["distilled"] / floor for turn, floor in zip(found, floors, strict=True)]
    compared = {name: steps[name] for name in ("plain", "distilled")}
    card = sides.device.type == "cuda"
    memory: Row = {f"{name}_mib": device_mib(run) for name, run in compared.items()} if card else peak_mib(compared)
    return {
        **{f"{name}_seconds": seconds for name, seconds in median.items()},
        "products": own.total(),
        "over plain": statistics.median(turn["distilled"] / turn["plain"] for turn in found),
        "ratio": statistics.median(ratios),
        **memory,
    }


def rows(pairs: Sequence[Pair], names: Sequence[str], repeats: int, device: torch.device, root: Path) -> list[Row]:
    """One row for each pair and method, printed as they come."""
    source: DataSource = read(write_digits(root / "digits", DigitsSpec(train_images=16, val_images=1)), "train")
    found: list[Row] = []
    for pair in pairs:
        for name in names:
            row: Row = {"name": f"{pair.name}: {name}"}
            make: Callable[[], Any] = partial(method_class(name))
            try:
                sides = Sides(pair, 3, source, root / f"{len(found)}", device, method=make)
                sides.live.try_out(*sides.batch)
            except EyasError as error:
                row["left out"] = " ".join(str(error).split())
            else:
                row |= measure(sides, repeats)
            report([row], None)
            found.append(row)
    return found


def main() -> None:
    found = parser("the step of every method against its floor", repeats=REPEATS)
    found.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, or cuda")
    found.add_argument("--pair", default="", metavar="TEXT", help="run only the pairs whose name contains this")
    found.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="all when left out")
    found.add_argument("--tiny", action="store_true", help="a tiny pair, to see that it works")
    chosen = start(found)
    resnets = GPU_PAIRS if chosen.device.type == "cuda" else tuple(pair for pair in PAIRS if pair.model != "shuffledet")
    pairs = [pair for pair in ((TINY,) if chosen.tiny else resnets) if chosen.pair in pair.name]
    with tempfile.TemporaryDirectory() as folder:
        all_rows = rows(pairs, chosen.methods, chosen.repeats, chosen.device, Path(folder))
    if chosen.json is not None:
        write(all_rows, chosen.json)


if __name__ == "__main__":
    main()
