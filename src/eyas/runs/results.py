"""Reading finished runs: their evaluations, costs and data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from eyas.data import DataSource, SplitOptions, read_part
from eyas.data.options import BoxForm
from eyas.runs.config import RESUME, flat_options, recorded_config
from eyas.runs.log import LOG, read_log
from eyas.runs.opening import resolve_detector
from eyas.types import EyasError


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        summary: metrics of its last evaluation, by name; NaN where a metric is undefined.
        teacher: the same for its teacher; None for a run without one, or whose teacher knows some of the classes alone.
        curve: epoch and metrics of every evaluation.
        seconds_per_step: median over its training steps; None where the log cannot tell.
        peak_memory: bytes of the process; None where the run did not log it.
        peak_device_memory: bytes of the CUDA device; None without one.
    """

    summary: dict[str, float]
    teacher: dict[str, float] | None
    curve: tuple[tuple[int, dict[str, float]], ...]
    seconds_per_step: float | None
    peak_memory: int | None
    peak_device_memory: int | None


@dataclass(frozen=True)
class TrainingTime:
    """How long a finished run trained, by the clock of its log.

    Attributes:
        seconds: of all its steps, the loading of their batches and the teacher's passes included; without evaluations
            and checkpoints.
        filling: seconds that filling its teacher cache took, whichever run did it; None without a cache, or where that
            is not known.
    """

    seconds: float
    filling: float | None = None


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that has ended by itself: after its last epoch, or because it ran out of patience.

    A run writes its cost last. Logs of early versions lack it: of those a run has ended that was evaluated after its
    last epoch and has no checkpoint to go on from.
    """
    if not (folder / LOG).is_file():
        return False
    lines = read_log(folder)
    evaluated = max((line["epoch"] for line in lines if line["kind"] == "val"), default=0)
    if any(line["kind"] == "cost" for line in lines):
        return evaluated > 0
    epochs = recorded_config(folder).get("run", {}).get("epochs", 1)
    return evaluated >= epochs and not (folder / RESUME).is_file()


def read_run(folder: Path) -> RunResult:
    """A finished run from its log. A resumed run has the time of its longest session and the largest memory of all."""
    lines = read_log(folder)
    evaluations = [line for line in lines if line["kind"] == "val"]
    of = evaluations[-1]["per_class"]
    teachers = [
        line for line in lines if line["kind"] == "teacher" and (line.get("per_class") or of).keys() == of.keys()
    ]
    sessions = [line for line in lines if line["kind"] == "cost"]
    longest = max(sessions, key=lambda line: line["steps"], default=None)
    timed = longest["seconds_per_step"] if longest else None
    return RunResult(
        summary=nulls_as_nan(evaluations[-1]["summary"]),
        teacher=nulls_as_nan(teachers[-1]["summary"]) if teachers else None,
        curve=tuple((line["epoch"], nulls_as_nan(line["summary"])) for line in evaluations),
        seconds_per_step=timed if timed is not None else seconds_between_lines(lines),
        peak_memory=max((line["peak_memory"] or 0 for line in sessions), default=0) or None,
        peak_device_memory=max((line["peak_device_memory"] or 0 for line in sessions), default=0) or None,
    )


def read_time(folder: Path) -> TrainingTime | None:
    """How long a finished run trained; None where its log cannot tell."""
    return training_time(read_log(folder))


def training_time(lines: Sequence[Mapping[str, Any]]) -> TrainingTime | None:
    """How long a run trained, from its log: the steps up to its last evaluation times the seconds of one.

    Those are from line to line within an epoch, a mean over its steps, since some steps cost more than others (an
    automatic weight is measured in one of ten), and of the epochs the median, since a machine has better and worse
    minutes. Where no epoch has two lines, the median step counts; None where there is none either.
    """
    last = max((line["step"] for line in lines if line["kind"] == "val"), default=0)
    rates = [
        (final["time"] - first["time"]) / (final["step"] - first["step"])
        for first, final in _ends_of_epochs(lines)
        if first["step"] < final["step"] and first["time"] <= final["time"]
    ]
    timed = [line["seconds_per_step"] for line in lines if line["kind"] == "cost" and line["seconds_per_step"]]
    filled = [line["seconds"] for line in lines if line["kind"] == "cache"]
    if not rates and not timed:
        return None
    return TrainingTime(last * statistics.median(rates or timed), filled[-1] if filled else None)


def _ends_of_epochs(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The first and the last line of the steps of each epoch; of each part where a run was resumed within one."""
    parts: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    resumed = 0
    for line in lines:
        resumed += line["kind"] == "resume"
        if line["kind"] == "train" and line["time"] is not None:
            parts.setdefault((resumed, line["epoch"]), []).append(line)
    return [(part[0], part[-1]) for part in parts.values()]


def seconds_between_lines(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Median seconds per step from the log's wall times, for runs that did not measure their steps.

    Only neighbouring lines of one epoch count, as no evaluation lies between them, and none between which the clock was
    set back; None where there are none.
    """
    steps = [line for line in lines if line["kind"] == "train" and line["time"] is not None]
    taken = [
        (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(steps)
        if before["epoch"] == after["epoch"] and before["step"] < after["step"] and before["time"] <= after["time"]
    ]
    return statistics.median(taken) if taken else None


def metric_title(name: str) -> str:
    """A metric's heading: ``map`` is mAP, ``map_50`` mAP50, ``map_easy`` mAP easy, ``map_50_11`` mAP50/11."""
    head, *rest = name.replace("map", "mAP").replace("mar", "mAR").split("_")
    for part in rest:
        separator = " " if not part.isdigit() else "" if head.isalpha() else "/"
        head += separator + part
    return head


def nulls_as_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics as they were before JSON, which has null where they are undefined."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def run_source(
    run: Path,
    classes: Sequence[str] | None,
    *,
    data: Path | None = None,
    split: str | None = None,
    boxes: BoxForm | None = None,
    choice: list[str] | dict[str, list[str]] | None = None,
) -> DataSource:
    """The data to evaluate a run on: its own validation split, unless another folder or split is given.

    Args:
        run: run folder.
        classes: class names of the data, in label order; the data set's own when None. Those that the run chose by
            --dataset.classes count before them.
        choice: classes to choose instead of the run's.
        data: folder of another data set.
        split: its name in the data set.
        boxes: how the boxes of another data set are written, see `eyas.data.SplitOptions`.

    Raises:
        EyasError: the run does not record its data and none is given, or the data cannot be read.
    """
    config = recorded_config(run)
    folder = data or config.get("data")
    if folder is None:
        raise EyasError(f"{run} does not say which data it was trained on; give --data")
    options = recorded_splits(flat_options(config))
    options = options if choice is None else replace(options, classes=choice)
    if data is not None:
        options = replace(options, format=None, boxes=boxes)
    return read_part(Path(folder), split or options.val_split, options, classes)


def data_for(
    name: str,
    own: Sequence[str],
    classes: list[str] | dict[str, list[str]] | None,
    *,
    data: Path | None,
    split: str | None,
    boxes: BoxForm | None = None,
) -> DataSource:
    """The data to run a detector on that `eyas.load` knows by ``name``; errors as for `run_source`.

    Args:
        name: the detector's name; only a run folder records its data.
        own: the detector's classes, in label order.
        classes: classes to choose from the data; when None, those of a run folder's detector, as it chose them, and the
            data set's own for another detector, which may know more of them.
        data, split, boxes: as for `run_source`.
    """
    source = resolve_detector(name)
    names = own if source.kind == "run" else None
    return run_source(source.folder or Path(name), names, data=data, split=split, boxes=boxes, choice=classes)


def recorded_splits(options: Mapping[str, Any]) -> SplitOptions:
    """Which images a run learned from and was evaluated on, from its `flat_options`; defaults where it is older."""
    names = [field.name for field in fields(SplitOptions)]
    found = {name: options[f"dataset.{name}"] for name in names if f"dataset.{name}" in options}
    together = "dataset.classes."
    groups = {name.removeprefix(together): group for name, group in options.items() if name.startswith(together)}
    return SplitOptions(**(found | ({"classes": groups} if groups else {})))
