"""The detectors of a report at work: their cost, and their detections on every image of the validation split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from eyas.args import DataArgs
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.evaluation.cost import ModelCost, measure
from eyas.evaluation.errors import Judged, judge
from eyas.evaluation.predict import find_everywhere
from eyas.report.runs import TEACHER, Arms, Run
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.opening import load_teacher
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError, Prediction, Size

ANY: Size = (1, 1)
"""Stands for the size of an image where the input has a fixed one."""


@dataclass(frozen=True, eq=False)
class Model:
    """A detector to look at.

    Attributes:
        name: of its arm, or `TEACHER`.
        place: run folder, or package.module:function.
        detector: on the CPU.
        resize: what images are resized to for it.
        cost: of its input; None where the size of that is not known without an image.
    """

    name: str
    place: str
    detector: Detector
    resize: Resize
    cost: ModelCost | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What a detector found in every image, in the order of the records, and the verdicts on it."""

    predictions: list[Prediction]
    judged: list[Judged]


def chosen_runs(arms: Arms) -> dict[str, Run]:
    """The run of each arm whose detections are looked at: of the lowest seed that all arms have, or that it has."""
    shared = set.intersection(*(set(seeds) for seeds in arms.values()))
    return {name: seeds[min(shared or seeds)] for name, seeds in arms.items()}


def chosen_teacher(runs: Sequence[Run], given: str | None) -> str | None:
    """The teacher to load: the given one, or the one that the runs name; None where they name none.

    Raises:
        EyasError: the runs name several.
    """
    named = list(dict.fromkeys(run.teacher for run in runs if run.teacher is not None))
    if given is None and len(named) > 1:
        raise EyasError(f"the runs have several teachers: {', '.join(named)}; report them apart, or give --teacher")
    return given or next(iter(named), None)


def load_models(places: Mapping[str, str], classes: Sequence[str]) -> tuple[dict[str, Model], list[str]]:
    """The detectors that can be loaded, and a sentence on those that cannot, or that have other classes.

    Args:
        places: name of an arm, or `TEACHER`, to run folder, or package.module:function. What has no run folder is fed
            as the first arm is: a teacher works at the student's size.
        classes: of the runs, in label order.
    """
    detectors: dict[str, Detector] = {}
    lacking: dict[str, str] = {}
    for name, place in places.items():
        try:
            detector = load_teacher(place)
        except EyasError as error:
            lacking[name] = str(error)
            continue
        if tuple(detector.classes) == tuple(classes):
            detectors[name] = detector
        else:
            lacking[name] = f"{place}: its classes are not those of the runs"
    notes = []
    if lacking:
        one = next(iter(lacking))
        notes.append(f"Without their size and their detections: {', '.join(lacking)}. Why ({one}): {lacking[one]}.")
    students = {name: ModelSpec.load(Path(places[name])).resize for name in detectors if name != TEACHER}
    if not students:
        return {}, notes
    fed = {TEACHER: next(iter(students.values())), **students}
    return {name: Model(name, places[name], detector, fed[name]) for name, detector in detectors.items()}, notes


def measured(models: Mapping[str, Model], source: DataSource | None, progress: Progress) -> dict[str, Model]:
    """The same with their costs; those of one architecture are measured once, so that noise does not part them."""
    known: dict[str, ModelCost] = {}
    result = {}
    task = progress.task("measure", len(models))
    for name, model in models.items():
        size, key = input_size(model.resize, source), _architecture(model)
        if size is not None and key not in known:
            known[key] = measure(model.detector, size)
        result[name] = replace(model, cost=known.get(key))
        progress.advance(task)
    progress.finish(task)
    return result


def input_size(resize: Resize, source: DataSource | None) -> Size | None:
    """(height, width) of the input that costs are measured with: of the first image, or the fixed one; else None."""
    if source is not None:
        return resize.output_size((source.records[0].height, source.records[0].width))
    return None if resize.height is None else resize.output_size(ANY)


def look(
    models: Mapping[str, Model],
    source: DataSource,
    feed: DataArgs,
    device: torch.device,
    progress: Progress,
    *,
    threshold: float,
) -> dict[str, Seen]:
    """Run every detector over every image, behind a progress bar, and judge what it finds.

    Args:
        models: by name.
        source: the validation split.
        feed: batch size and workers.
        device: where the detectors run; they are on the CPU again afterwards.
        progress: where the bars appear.
        threshold: lowest score of the detections that are judged.

    Raises:
        EyasError: an image that cannot be decoded.
    """
    seen = {}
    for name, model in models.items():
        fed = replace(feed, resize=model.resize)
        found = find_everywhere(model.detector, source, fed, device, progress, name)
        ordered = [found[index] for index in range(len(source.records))]
        pairs = zip(source.records, ordered, strict=True)
        seen[name] = Seen(ordered, [judge(record, prediction, threshold=threshold) for record, prediction in pairs])
    return seen


def _architecture(model: Model) -> str:
    """What tells whether two run folders hold the same network."""
    folder = Path(model.place)
    if not (folder / SPEC).is_file():
        return model.place
    return json.dumps(asdict(replace(ModelSpec.load(folder), weights="")), sort_keys=True)
