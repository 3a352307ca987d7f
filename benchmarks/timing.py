"""Shared by the benchmarks: options, interleaved timing, peak memory, and rows as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Row = dict[str, str | int | float]
"""One comparison: ``name``, its settings, ``<side>_seconds`` and optionally ``<side>_mib`` of each side, and
``ratio``, baseline over candidate."""


def parser(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    found.add_argument("--repeats", type=int, default=repeats, help="turns of each side; the median is shown")
    found.add_argument("--threads", type=int, default=2, help="threads per operation")
    return found


def start(found: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line and set the number of threads."""
    chosen = found.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def options(description: str, *, repeats: int) -> argparse.Namespace:
    """The command line of a benchmark that has no options of its own."""
    return start(parser(description, repeats=repeats))


TURN = 0.02
"""Minimum seconds of one turn of a side, reached by repeating the run up to 20 times."""


def turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> list[dict[str, float]]:
    """Seconds of each side in every turn. The sides alternate, so that a disturbance affects all of them alike."""
    runs = {name: max(1, min(20, round(TURN / _seconds(run, 1)))) for name, run in sides.items()}
    return [{name: _seconds(run, runs[name]) for name, run in sides.items()} for _ in range(repeats)]


def medians(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side over its turns."""
    found = turns(sides, repeats)
    return {name: statistics.median(turn[name] for turn in found) for name in sides}


def _seconds(run: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / number


def peak_mib(sides: Mapping[str, Callable[[], object]]) -> Row:
    """``<side>_mib``: the peak memory of the tensors that each side allocates, in MiB."""
    return {f"{name}_mib": round(_peak_bytes(run) / 2**20, 3) for name, run in sides.items()}


def device_mib(run: Callable[[], object]) -> float:
    """The memory of the CUDA device that a run takes at its peak, beyond what was allocated before it, in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 3)


def _peak_bytes(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    allocated = peak = 0
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def row(name: str, settings: Row, seconds: Mapping[str, float], *, baseline: str, candidate: str) -> Row:
    times = {f"{side}_seconds": value for side, value in seconds.items()}
    return {"name": name, **settings, **times, "ratio": seconds[baseline] / seconds[candidate]}


def report(rows: Sequence[Row], path: Path | None) -> None:
    """Print the rows, with times in milliseconds, and write them to the JSON file if one is given."""
    table = [[column.replace("_seconds", " ms") for column in rows[0]]]
    table += [[_cell(column, value) for column, value in line.items()] for line in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if path is not None:
        write(rows, path)


def write(rows: Sequence[Row], path: Path) -> None:
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _cell(column: str, value: str | int | float) -> str:
    if column.endswith("_seconds"):
        return f"{1000 * float(value):.2f}"
    return f"{value:.3g}x" if column == "ratio" else str(value)
