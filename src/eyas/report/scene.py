"""What of a report's runs can still be looked at: their data, their detectors, and what those find."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch

from eyas.args import DataArgs
from eyas.comparison.arms import BASELINE
from eyas.comparison.statistics import Comparison
from eyas.data import DataSource
from eyas.ops.near_objects import AssignmentRule
from eyas.report.look import (
    Model,
    Seen,
    chosen_runs,
    chosen_teacher,
    load_models,
    look,
    measured,
)
from eyas.report.runs import TEACHER, Found, Run
from eyas.runs.results import run_source
from eyas.tools.progress import Progress
from eyas.types import EyasError


@dataclass(frozen=True)
class Sight:
    """Where to look, and how.

    Attributes:
        data: folder of a data set; the runs' own when None.
        split: the runs' validation split when None.
        teacher: run folder, or package.module:function; the runs' own when None.
        threshold: lowest score of the detections that are judged and drawn, in [0, 1].
        images: how many of the worst and of the best images are shown.
        feed: batch size and workers.
        device: where the detectors run.
    """

    data: Path | None = None
    split: str | None = None
    teacher: str | None = None
    threshold: float = 0.3
    images: int = 3
    feed: DataArgs = field(default_factory=DataArgs)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise EyasError(f"threshold must lie in [0, 1], got {self.threshold}")
        if self.images < 1:
            raise EyasError(f"images must be at least 1, got {self.images}")


@dataclass(frozen=True, eq=False)
class Scene:
    """What was seen.

    Attributes:
        runs: of each arm, the run whose detections these are.
        models: by name, the teacher's first where there is one; empty when none of the runs has its weights.
        seen: by the same names; empty without images.
        source: the validation data; None where they are not to be had.
        notes: what is left out, and why, in sentences.
    """

    runs: Mapping[str, Run]
    models: Mapping[str, Model]
    seen: Mapping[str, Seen]
    source: DataSource | None
    notes: tuple[str, ...]


def look_at(found: Found, sight: Sight, progress: Progress) -> Scene:
    """Load and run what is still there of the runs, one run for each arm.

    Raises:
        EyasError: the given data or the given teacher cannot be read. What the runs themselves name and is no longer
            there is left out, with a note.
    """
    runs = chosen_runs(found.arms)
    first = next(iter(runs.values()))
    classes = list(first.per_class)
    source, notes = _open(first, classes, sight)
    teacher = chosen_teacher(found.runs(), sight.teacher)
    places = {} if teacher is None else {TEACHER: teacher}
    models, more = load_models({**places, **{name: str(run.folder) for name, run in runs.items()}}, classes)
    notes += more
    if sight.teacher is not None and models and TEACHER not in models:
        raise EyasError(notes[-1])
    if not models:
        return Scene(runs, {}, {}, source, tuple([*notes, "None of the runs has its weights, so none was looked at."]))
    models = measured(models, source, progress)
    seen: dict[str, Seen] = {}
    if source is not None:
        try:
            seen = look(models, source, sight.feed, sight.device, progress, threshold=sight.threshold)
        except EyasError as error:
            if sight.data is not None:
                raise
            notes.append(f"The images cannot be looked at: {error}.")
            source = None
    return Scene(runs, models, seen, source, tuple(notes))


def shown_arm(scene: Scene, comparison: Comparison) -> str:
    """The arm whose images are shown: the best but plain, of those that were looked at; plain where it is alone."""
    arms = [name for name in scene.seen if name != TEACHER]
    return max(arms, key=lambda name: (name != BASELINE, _mean(name, comparison)))


def mask_options(runs: Iterable[Run]) -> tuple[float, AssignmentRule, str]:
    """psi and assignment of the first of the runs whose method has them, and in words where they come from."""
    for run in runs:
        methods = run.config.get("method")
        for method in methods if isinstance(methods, list) else [methods]:
            options = (method or {}).get("init_args", {})
            if "psi" in options and options.get("assignment", "global") in get_args(AssignmentRule):
                return float(options["psi"]), options.get("assignment", "global"), f"as in {run.folder.name}"
    return 0.5, "global", "the default, since no method here has a mask of its own"


def _mean(name: str, comparison: Comparison) -> float:
    mean = float(comparison.arms[name].metrics[comparison.metric].mean)
    return -math.inf if math.isnan(mean) else mean


def _open(run: Run, classes: list[str], sight: Sight) -> tuple[DataSource | None, list[str]]:
    """The validation data; or None and why."""
    try:
        return run_source(run.folder, classes, data=sight.data, split=sight.split), []
    except EyasError as error:
        if sight.data is not None:
            raise
        return None, [f"The data of the runs cannot be read: {error}. --data says where they are now."]
