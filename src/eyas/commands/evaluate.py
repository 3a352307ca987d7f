"""`eyas evaluate`: the score of a trained detector, beside its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.args import BatchArgs, DataArgs, MetricName, SplitArgs
from eyas.data.options import Resize
from eyas.tools.output_paths import check_output_files

if TYPE_CHECKING:
    import torch

    from eyas.data import DataSource
    from eyas.runs.opening import DetectorSource
    from eyas.tools.progress import Progress
    from eyas.types import Detector, Prediction

CONFUSION_THRESHOLD = 0.3
"""Lowest score of the detections in the confusion matrix, as in a report."""


def evaluate(
    run: str,
    subset: SplitArgs = SplitArgs(),
    classes: list[str] | dict[str, list[str]] | None = None,
    best: bool = False,
    metric: MetricName | None = None,
    max_detections: int | None = None,
    resize: Resize = Resize(),
    feed: BatchArgs = BatchArgs(),
    predictions: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Score a trained detector per class, beside its best weights and its teacher where it has any, with its cost.

    Classes are matched by name: a detector of more classes than the data has is scored on those of the data.

    Args:
        run: run folder of a training; a file that export made; a folder of save_pretrained, or a hub id, of
            transformers; a checkpoint of rfdetr or libreyolo; or package.module:function, which is called and returns a
            detector.
        classes: class names of the data in label order, or each name with the classes that it takes together; those of
            the run, or the data set's own, when left out.
        best: take the best checkpoint instead of the last.
        metric: the rules to score by; the run's own, or the data format's, when left out.
        max_detections: of one class in one image, by score, that count in COCO's metrics; COCO's 100, or the run's own,
            when left out.
        resize: size of the input; the run's own when left out.
        predictions: also write the model's detections there, as a COCO result file with the data set's own ids.
        json_file: also write the metrics, the costs and the confusion matrices there; row i of a matrix counts what the
            objects of class i were taken for, and the last row and column are the background.
    """
    check_output_files(predictions, json_file)
    from eyas.evaluation import run_metric
    from eyas.evaluation.coco import results
    from eyas.evaluation.ground_truth import remarks
    from eyas.export.formats import open_detector
    from eyas.runs.config import recorded_config
    from eyas.runs.opening import resolve_detector
    from eyas.runs.results import data_for
    from eyas.runs.teachers import size_note, teacher_resize
    from eyas.tools.devices import pick_device
    from eyas.tools.files import write_json
    from eyas.tools.progress import Progress

    origin = resolve_detector(run)
    with Progress() as progress, progress.waiting(f"model     opening {run}"):
        own, detector = open_detector(run, best=best)
    note = size_note(run, resize)
    resize, config = own if resize == Resize() else resize, recorded_config(origin.folder) if origin.folder else {}
    source = data_for(run, detector.classes, classes, data=subset.data, split=subset.split, boxes=subset.boxes)
    rule = run_metric(config, source.format, metric=metric, max_detections=max_detections)
    rows = {"model": (run, detector, resize)}
    if not best and (better := best_of(origin)) is not None:
        rows["best"] = (f"{run} (best weights)", better, resize)
    if origin.folder is not None and (teacher := teacher_of(config, source.classes)) is not None:
        rows["teacher"] = (*teacher, teacher_resize(origin.folder, resize))
    scores: dict[str, Any] = {"metric": rule, "data": str(source.root), "split": source.split}
    found: dict[str, list[Prediction]] = {}
    where = pick_device(feed.device)
    with Progress() as progress:
        if note is not None:
            progress.say(f"size     {note}")
        for remark in (*source.warnings, *remarks(rule, source)):
            progress.say(f"warning  {remark}")
        for name, (path, detector, size) in rows.items():
            fed = feed.dataset(size)
            scores[name], found[name] = score_row(name, path, detector, source, rule, fed, where, progress)
    if predictions is not None:
        write_json(predictions, results(source, found["model"]))
    if json_file is not None:
        write_json(json_file, scores)


def score_row(
    name: str,
    path: str,
    detector: Detector,
    source: DataSource,
    rule: str,
    feed: DataArgs,
    device: torch.device,
    progress: Progress,
) -> tuple[dict[str, Any], list[Prediction]]:
    """Score one detector of `evaluate` and print its table. Its entry of the JSON file, and its detections."""
    from eyas.detectors.class_names import match_by_name, shared_classes
    from eyas.evaluation.confusion import confusion_matrix
    from eyas.evaluation.ground_truth import too_few_detections
    from eyas.evaluation.predict import predict_source, score
    from eyas.export.formats import cost_of
    from eyas.runs.teachers import unlike_training

    for remark in (unlike_training(path, feed.resize, source.records), too_few_detections(own_limit(path), source)):
        if remark is not None:
            progress.say(f"warning  {name}: {remark}")
    matched, shared = match_by_name(detector, source.classes, path), shared_classes(detector.classes, source.classes)
    if len(shared) < len(source.classes):
        progress.say(f"{name}  knows {len(shared)} of {len(source.classes)} classes: {', '.join(shared)}")
    found = predict_source(matched, source, feed, device, progress, name)
    with progress.waiting(f"{name}  scoring the detections in {len(found)} images"):
        result = score(rule, source, found).restricted_to(shared)
    cost = cost_of(detector, feed.resize.output_size((source.records[0].height, source.records[0].width)))
    progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
    ordered = [found[index] for index in range(len(source.records))]
    counts = confusion_matrix(source.records, source.classes, ordered, threshold=CONFUSION_THRESHOLD)
    entry = {
        "summary": result.summary,
        "per_class": result.per_class,
        "cost": asdict(cost),
        "confusion": {"threshold": CONFUSION_THRESHOLD, "counts": counts.tolist()},
    }
    return entry, ordered


def own_limit(name: str) -> int | None:
    """The most detections of an image that the detector of a run folder returns; None where that is not known."""
    from eyas.detectors import detection_count
    from eyas.runs.checkpoint import SPEC, ModelSpec

    folder = Path(name)
    if not (folder / SPEC).is_file():
        return None
    spec = ModelSpec.load(folder)
    return detection_count(spec.model, spec.options)


def best_of(origin: DetectorSource) -> Detector | None:
    """The best weights of a run folder, where they are not the last."""
    from eyas.runs.checkpoint import BEST, load_run
    from eyas.tools.files import file_digest

    if origin.kind != "run" or not origin.files:
        return None
    last, best = origin.files[-1], origin.files[-1].with_name(BEST)
    if not best.is_file() or file_digest(best) == file_digest(last):
        return None
    return load_run(last.parent, best=True)


def teacher_of(config: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, Detector] | None:
    """Name and detector of the teacher that a run's config names, where it is one of these classes, in a folder.

    The config may be a stranger's: a function that it names is not called.
    """
    from eyas.detectors.class_names import shared_classes
    from eyas.runs.opening import load

    name = config.get("teacher")
    if not isinstance(name, str) or not Path(name).is_dir():
        return None
    teacher = load(name, run_code=False)
    return (name, teacher) if shared_classes(teacher.classes, classes) else None
