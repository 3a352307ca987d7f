"""The detectors of a report: loaded, measured, and run over the validation images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from eyas.args import DataArgs
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.detectors.class_names import match_by_name
from eyas.detectors.feature_names import FeatureName
from eyas.evaluation.cost import ModelCost, measure_in_turns
from eyas.evaluation.errors import JudgedImage, judge
from eyas.evaluation.predict import predict_source
from eyas.report.runs import TEACHER, Arms, FoundRuns, Run
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import load
from eyas.runs.recipes import names_function
from eyas.runs.teachers import teacher_resize
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError, Prediction


@dataclass(frozen=True, eq=False)
class Model:
    """A detector of the report.

    Attributes:
        origin: run folder, or package.module:function.
        detector: on the CPU.
        resize: of its input images.
        cost: for its input size; None where that size is not known without an image.
    """

    origin: str
    detector: Detector
    resize: Resize
    cost: ModelCost | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """A detector's predictions for every image, in the order of the records, and the verdicts on them."""

    predictions: list[Prediction]
    judged: list[JudgedImage]


def one_run_each(arms: Arms) -> dict[str, Run]:
    """The run to load for each arm: that of the lowest seed that all arms share, else of the arm's lowest."""
    shared = set.intersection(*(set(seeds) for seeds in arms.values()))
    return {name: seeds[min(shared or seeds)] for name, seeds in arms.items()}


def teacher_origin(found: FoundRuns, given: str | None) -> tuple[str | None, list[str]]:
    """The given teacher, else the one that the runs name, None where they name none; and what to note about it.

    A run may come from a stranger: a function that its config names as the teacher is not called. A folder that is
    elsewhere by now is found where it is among the runs.

    Raises:
        EyasError: the runs name several.
    """
    taught = [run for run in found.runs() if run.teacher is not None and FeatureName.parse(run.teacher) is None]
    if given is not None or not taught:  # a source of features detects nothing
        return given, []
    names = list(dict.fromkeys(str(run.teacher) for run in taught))
    digests = {run.inputs.get("teacher") for run in taught}
    if len({Path(name).resolve() for name in names}) > 1 and (None in digests or len(digests) > 1):
        raise EyasError(f"the runs have several teachers: {', '.join(names)}; report them apart, or give --teacher")
    there = [name for name in names if Path(name).exists()] or [str(run.folder) for run in found.teachers] or names
    if not names_function(there[0]):
        return there[0], []
    return None, [f"Without the teacher: the runs name the function {there[0]}, which is called only for --teacher."]


def load_models(origins: Mapping[str, str], classes: Sequence[str]) -> tuple[dict[str, Model], list[str]]:
    """The detectors that can be loaded, answering in the classes of the runs, and a sentence on those that cannot.

    Args:
        origins: arm or `TEACHER` -> run folder, or package.module:function. The teacher gets images as the first arm
            that it taught gives them.
        classes: class names of the runs, in label order.
    """
    detectors: dict[str, Detector] = {}
    problems: dict[str, EyasError] = {}
    for name, origin in origins.items():
        try:
            detectors[name] = match_by_name(load(origin), classes, origin)
        except EyasError as error:
            problems[name] = error
    notes = []
    if problems:
        name, reason = next(iter(problems.items()))
        notes.append(f"Without their size and their detections: {', '.join(problems)}. Why ({name}): {reason}.")
    students = {name: ModelSpec.load(Path(origins[name])).resize for name in detectors if name != TEACHER}
    if not students:
        return {}, notes
    fed = {name: teacher_resize(Path(origins[name]), resize) for name, resize in students.items()}
    taught = [fed[name] for name in students if recorded_config(Path(origins[name])).get("teacher") is not None]
    if len(set(taught)) > 1:
        notes.append("The arms give the teacher images of several sizes; here it gets those of the first.")
    resize = {TEACHER: [*taught, *fed.values()][0], **students}
    return {name: Model(origins[name], detector, resize[name]) for name, detector in detectors.items()}, notes


def measure_models(models: Mapping[str, Model], source: DataSource | None, progress: Progress) -> dict[str, Model]:
    """The models with their costs, at the size of the first image as the network gets it, or at a fixed input size.

    Models of one architecture share one measurement, and all are measured in turns.
    """
    # With a fixed input size any image will do.
    image = (1, 1) if source is None else (source.records[0].height, source.records[0].width)
    sizes = {name: model.resize.output_size(image) for name, model in models.items() if source or model.resize.height}
    keys = {name: _architecture(models[name]) for name in sizes}
    first = {key: name for name, key in reversed(keys.items())}
    with progress.waiting(f"measure   size and speed of {len(first)} models"):
        costs = measure_in_turns({key: (models[name].detector, sizes[name]) for key, name in first.items()})
    return {name: replace(model, cost=costs[keys[name]] if name in keys else None) for name, model in models.items()}


def detect(
    models: Mapping[str, Model],
    source: DataSource,
    feed: DataArgs,
    device: torch.device,
    progress: Progress,
    *,
    threshold: float,
) -> dict[str, Detections]:
    """Run every detector over every image, behind a progress bar, and judge its detections.

    Args:
        models: by name.
        source: the validation split.
        feed: batch size and workers.
        device: where the detectors run; they are on the CPU again afterwards.
        progress: where the bars appear.
        threshold: lowest score of the detections that are judged, in [0, 1].

    Raises:
        EyasError: an image that cannot be decoded.
    """
    detections = {}
    for name, model in models.items():
        found = predict_source(model.detector, source, replace(feed, resize=model.resize), device, progress, name)
        ordered = [found[index] for index in range(len(source.records))]
        pairs = zip(source.records, ordered, strict=True)
        detections[name] = Detections(ordered, [judge(*pair, threshold=threshold) for pair in pairs])
    return detections


def _architecture(model: Model) -> str:
    """Equal for two run folders that hold the same network, and give it images of one size."""
    folder = Path(model.origin)
    if not (folder / SPEC).is_file():
        return model.origin
    return json.dumps(asdict(replace(ModelSpec.load(folder), weights="", resize=model.resize)), sort_keys=True)
