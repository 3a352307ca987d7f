"""The data of a report: the runs, their comparison, and what their detectors find in the validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from eyas.args import DataArgs
from eyas.comparison.arms import BASELINE, split_schedule
from eyas.comparison.schedules import Schedules
from eyas.comparison.statistics import Comparison
from eyas.data import DataSource
from eyas.data.options import BoxForm
from eyas.report.models import Detections, Model, detect, load_models, measure_models, one_run_each, teacher_origin
from eyas.report.runs import TEACHER, FoundRuns, Run
from eyas.runs.results import run_source
from eyas.runs.teachers import unlike_training
from eyas.tools.progress import Progress
from eyas.types import EyasError


class LeftOut(Exception):
    """Why a section cannot be shown."""


@dataclass(frozen=True)
class ReportOptions:
    """The options of a report.

    Attributes:
        data: folder of a data set; the runs' own when None.
        split: the runs' validation split when None.
        teacher: run folder, or package.module:function; the runs' own when None.
        threshold: lowest score of the detections that are judged and drawn, in [0, 1].
        images: how many of the worst and of the best images are shown, at least 1.
        feed: batch size and workers.
        device: where the detectors run.
        boxes: how the boxes of another Hugging Face data set than the runs' are written.
    """

    data: Path | None
    split: str | None
    teacher: str | None
    threshold: float
    images: int
    feed: DataArgs
    device: torch.device
    boxes: BoxForm | None = None


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the sections of a report show.

    Attributes:
        found: the runs.
        comparison: their comparison.
        schedules: their comparison over schedules and time; None for one schedule without equal time.
        options: the options of the report.
        runs: arm -> the one run whose detector is loaded.
        models: `TEACHER` or arm -> detector, the teacher first; empty when none of the runs has its weights.
        source: the validation data; None where they cannot be read.
        detections: by the names of `models`; empty without images.
        notes: what is left out, and why, in sentences.
    """

    found: FoundRuns
    comparison: Comparison
    schedules: Schedules | None
    options: ReportOptions
    runs: Mapping[str, Run]
    models: Mapping[str, Model]
    source: DataSource | None
    detections: Mapping[str, Detections]
    notes: tuple[str, ...]

    @property
    def best_arm(self) -> str:
        """The best arm that has detections, the baseline last whatever its score."""

        def rank(name: str) -> tuple[bool, float]:
            mean = self.comparison.arms[name].metrics[self.comparison.metric].mean
            return split_schedule(name)[0] != BASELINE, -math.inf if math.isnan(mean) else mean

        return max((name for name in self.detections if name != TEACHER), key=rank)

    def source_and_detections(self) -> tuple[DataSource, Mapping[str, Detections]]:
        """The validation data and the detections. Raises LeftOut where there are none."""
        if self.source is None or not self.detections:
            missing = "the data cannot be read" if self.source is None else "none of the runs has its weights"
            raise LeftOut(f"{missing}; see the top of the page.")
        return self.source, self.detections


def collect(
    found: FoundRuns,
    comparison: Comparison,
    options: ReportOptions,
    progress: Progress,
    schedules: Schedules | None = None,
) -> ReportData:
    """Load, measure and run what the run folders still have, one run for each arm.

    Raises:
        EyasError: the data or the teacher of the options cannot be read. What only the runs name and no longer exists
            is left out, with a note.
    """
    runs = one_run_each(found.arms)
    first = next(iter(runs.values()))
    source: DataSource | None = None
    notes = []
    try:
        source = run_source(
            first.folder, list(first.per_class), data=options.data, split=options.split, boxes=options.boxes
        )
        notes += [f"The data: {warning}." for warning in source.warnings]
    except EyasError as error:
        if options.data is not None:
            raise
        notes.append(f"The data of the runs cannot be read: {error}. --data says where they are now.")
    teacher, unnamed = teacher_origin(found, options.teacher)
    origins = {} if teacher is None else {TEACHER: teacher}
    origins |= {name: str(run.folder) for name, run in runs.items()}
    models, more = load_models(origins, list(first.per_class))
    notes += [*unnamed, *more]
    if options.teacher is not None and models and TEACHER not in models:
        raise EyasError(" ".join(more))
    if TEACHER in models and source is not None:
        unlike = unlike_training(models[TEACHER].origin, models[TEACHER].resize, source.records)
        notes += [f"The teacher {unlike}."] if unlike is not None else []
    if models:
        models = measure_models(models, source, progress)
    else:
        notes.append("None of the runs has its weights, so there are no detections.")
    detections: dict[str, Detections] = {}
    if models and source is not None:
        try:
            detections = detect(models, source, options.feed, options.device, progress, threshold=options.threshold)
        except EyasError as error:
            if options.data is not None:
                raise
            notes.append(f"The images cannot be read: {error}.")
            source = None
    return ReportData(found, comparison, schedules, options, runs, models, source, detections, tuple(notes))
