"""What finished runs have to show: their evaluations, costs and data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eyas.data import DataSource, read
from eyas.runs.config import recorded_config
from eyas.runs.log import LOG, read_log
from eyas.types import EyasError

# Reading runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        summary: figures of its last evaluation; NaN where a figure is undefined.
        teacher: the same of its teacher; None for a plain run.
        curve: epoch and figures of every evaluation.
        seconds_per_step: median over its training steps.
        peak_memory: bytes, of the process.
        peak_device_memory: bytes, of the CUDA device.
    """

    summary: dict[str, float]
    teacher: dict[str, float] | None
    curve: tuple[tuple[int, dict[str, float]], ...]
    seconds_per_step: float | None
    peak_memory: int | None
    peak_device_memory: int | None


def last_epoch(folder: Path) -> int:
    """The last epoch that a run was evaluated after; 0 where there is none, or no run."""
    if not (folder / LOG).is_file():
        return 0
    return max((line["epoch"] for line in read_log(folder, "val")), default=0)


def last_summary(folder: Path, kind: str = "val") -> dict[str, float]:
    """The figures of a run's last evaluation, or with kind "teacher" those of its teacher; null becomes NaN."""
    return _figures(read_log(folder, kind)[-1])


def read_run(folder: Path) -> RunResult:
    """What a finished run logged. Of several sittings, the time is that of the longest, the memory the largest."""
    lines = read_log(folder)
    evaluations = [line for line in lines if line["kind"] == "val"]
    teachers = [line for line in lines if line["kind"] == "teacher"]
    sittings = [line for line in lines if line["kind"] == "cost"]
    longest = max(sittings, key=lambda line: line["steps"], default=None)
    timed = longest["seconds_per_step"] if longest else None
    return RunResult(
        summary=_figures(evaluations[-1]),
        teacher=_figures(teachers[-1]) if teachers else None,
        curve=tuple((line["epoch"], _figures(line)) for line in evaluations),
        seconds_per_step=timed if timed is not None else seconds_between_lines(lines),
        peak_memory=max((line["peak_memory"] for line in sittings), default=None),
        peak_device_memory=max((line["peak_device_memory"] or 0 for line in sittings), default=0) or None,
    )


def seconds_between_lines(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Median seconds per step by the wall times of the log, for runs that did not measure their steps.

    Only neighbours of one epoch count, between which there was no evaluation; None where there are none.
    """
    steps = [line for line in lines if line["kind"] == "train"]
    taken = [
        (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(steps)
        if before["epoch"] == after["epoch"]
    ]
    return statistics.median(taken) if taken else None


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in line["summary"].items()}


def run_source(run: Path, classes: Sequence[str], *, data: Path | None = None, split: str | None = None) -> DataSource:
    """The data that a run folder is looked at with: its own, and its validation split, where nothing else is said.

    Args:
        run: run folder.
        classes: the detector's, in label order.
        data: another folder of a data set.
        split: another split.

    Raises:
        EyasError: the run does not record its data and none is given, or `read` raises it.
    """
    config = recorded_config(run)
    dataset = config.get("dataset", {})
    folder = data or config.get("data")
    if folder is None:
        raise EyasError(f"{run} does not say which data it was trained on; give --data")
    format = dataset.get("format") if data is None else None
    return read(Path(folder), split or dataset.get("val_split", "val"), format=format, classes=classes)
