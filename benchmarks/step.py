"""A distilled step against the least it can cost, and against plain training.

``python -m benchmarks.step [--pair TEXT] [--json FILE]``. The floor of a distilled step is the plain student's step,
plus the teacher's forward pass up to the last tap (nothing with a full cache), plus the adapter's bare matrix products
at the near cells, forward and backward. These parts are timed separately; their sum is ``floor``. All sides of a pair
run in turns on the same batch of the demo's scenes: the parts of the floor, the step with a running teacher, the step
with a full cache, and the step the plain way (the teacher's whole detector under no_grad, the adapter on the whole map,
the IoU of all anchors with all boxes). Decoding and augmentation are left out; `eyas benchmark` includes them.

``--device cuda`` uses larger pairs, at 800 x 1333 pixels in bfloat16. It adds rows for the device memory that a step of
each side takes, for how often the host waits for the device in a plain and in a distilled step, and for the share of a
distilled step's device time outside convolutions. ``python -m benchmarks.gpu`` runs these among all that needs a card.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sides import GPU_PAIRS, PAIRS, Sides, Step
from benchmarks.timing import Row, device_mib, parser, report, start, turns, write
from eyas.data import read
from eyas.data.digits import DigitsSpec, write_digits

REPEATS = 9
"""Turns of each side. After forty, "distilled" would reach a step that measures the gradient ratio, as one in fifty
does; such a step costs as much as "weight measured"."""

RATIOS = (
    ("teacher", ("plain",), "teacher's forward over plain"),
    ("products", ("plain",), "adapter's bare products over plain"),
    ("distilled", ("plain", "teacher", "products"), "distilled over floor"),
    ("distilled", ("plain",), "distilled over plain"),
    ("weight measured", ("plain",), "distilled, a step that measures the weight, over plain"),
    ("cached", ("plain", "products"), "cached over floor"),
    ("cached", ("plain",), "cached over plain"),
    ("the plain way", ("plain",), "the plain way over plain"),
)
"""(the numerator's side, the denominator's sides, which are summed, the name of the row)."""


def compare(sides: Sides, repeats: int) -> list[Row]:
    """Every row of a pair: its ratios and, on a card, memory, waits and the share outside convolutions."""
    steps, name = sides.steps(), f"{sides.pair.name}, {sides.kernel}x{sides.kernel}"
    rows = ratios(steps, name, sum(sides.cells), repeats)
    return rows + on_card(steps, name) if sides.device.type == "cuda" else rows


def ratios(steps: Mapping[str, Step], name: str, cells: int, repeats: int) -> list[Row]:
    """One row for each ratio whose sides are there: the median over turns of the ratio within a turn."""
    found = turns(steps, repeats)
    rows: list[Row] = []
    for above, below, what in RATIOS:
        if not {above, *below} <= steps.keys():
            continue
        tops = [turn[above] for turn in found]
        bottoms = [sum(turn[side] for side in below) for turn in found]
        rows.append(
            {
                "name": f"{name}: {what}",
                "near cells": cells,
                "above_seconds": statistics.median(tops),
                "below_seconds": statistics.median(bottoms),
                "ratio": statistics.median(top / bottom for top, bottom in zip(tops, bottoms, strict=True)),
            }
        )
    return rows


def on_card(steps: Mapping[str, Step], name: str) -> list[Row]:
    """Memory of a step of each side, waits of the plain and the distilled one, and time outside convolutions."""
    rows: list[Row] = [{"name": f"{name}: memory, {side}", "mib": device_mib(run)} for side, run in steps.items()]
    for side in ("plain", "distilled"):
        places = host_waits(steps[side])
        most = ", ".join(f"{place} {count}" for place, count in places.most_common(8))
        rows.append({"name": f"{name}: host waits, {side}", "count": places.total(), "where": most})
    share = 1 - convolution_share(steps["distilled"], "cuda")
    rows.append({"name": f"{name}: distilled, device time that is no convolution", "share": share})
    return rows


def host_waits(run: Step) -> Counter[str]:
    """How often the host waits for the device, by the line of Python that it waits in, as in ``ops/boxes.py:83``."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing" in str(warning.message)]
    return Counter(f"{'/'.join(Path(wait.filename).parts[-2:])}:{wait.lineno}" for wait in waits)


def convolution_share(run: Step, device: str) -> float:
    """The share of the device's time spent in convolutions, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]) as found:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    operations = [event for event in found.key_averages() if event.key.startswith("aten::")]
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, own) for event in operations}
    return sum(time for name, time in times.items() if "conv" in name) / sum(times.values())


def main() -> None:
    found = parser("a distilled step against its floor", repeats=REPEATS)
    found.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, or cuda")
    found.add_argument("--pair", default="", metavar="TEXT", help="run only the pairs whose name contains this")
    chosen = start(found)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = read(write_digits(root / "digits", DigitsSpec(train_images=16, val_images=1)), "train")
        pairs = GPU_PAIRS if chosen.device.type == "cuda" else PAIRS
        for pair in (pair for pair in pairs if chosen.pair in pair.name):
            for kernel in pair.kernels:
                sides = Sides(pair, kernel, source, root / f"{len(rows)}", chosen.device)
                own = compare(sides, chosen.repeats)
                for columns in itertools.groupby(own, key=tuple):
                    report(list(columns[1]), None)
                rows += own
    if chosen.json is not None:
        write(rows, chosen.json)


if __name__ == "__main__":
    main()
