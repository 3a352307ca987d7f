"""`eyas evaluate`: the score of a trained detector, beside its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.args import BatchArgs, MetricName, SplitArgs
from eyas.data.options import Resize

if TYPE_CHECKING:
    from eyas.types import Detector


def evaluate(
    run: str,
    subset: SplitArgs = SplitArgs(),
    classes: list[str] | None = None,
    best: bool = False,
    metric: MetricName | None = None,
    max_detections: int | None = None,
    resize: Resize = Resize(),
    feed: BatchArgs = BatchArgs(),
    json_file: Path | None = None,
) -> None:
    """Score a trained detector per class, beside its teacher where it had one, with its size and speed.

    Classes are matched by name: a detector of more classes than the data has is scored on those of the data.

    Args:
        run: run folder of a training; an ONNX file that export made; a folder of save_pretrained, or a hub id, of
            transformers; or package.module:function, which is called and returns a detector.
        classes: class names of the data in label order; those of the run, or the data set's own, when left out.
        best: take the best checkpoint instead of the last.
        metric: the rules to score by; the run's own, or the data format's, when left out.
        max_detections: of one class in one image, by score, that count in COCO's metrics; COCO's 100, or the run's own,
            when left out.
        resize: size of the input; the run's own when left out.
        json_file: also write the metrics and costs there.
    """
    from eyas.detectors.class_names import match_by_name, shared_classes
    from eyas.evaluation import run_metric
    from eyas.evaluation.ground_truth import remarks
    from eyas.evaluation.predict import predict_source, score
    from eyas.export.formats import cost_of, open_detector
    from eyas.runs.config import recorded_config
    from eyas.runs.opening import resolve_detector
    from eyas.runs.results import data_for
    from eyas.runs.teachers import teacher_resize, unlike_training
    from eyas.tools.devices import pick_device
    from eyas.tools.files import write_json
    from eyas.tools.progress import Progress

    (own, detector), folder = open_detector(run, best=best), resolve_detector(run).folder
    resize, config = own if resize == Resize() else resize, {} if folder is None else recorded_config(folder)
    source = data_for(run, detector.classes, classes, data=subset.data, split=subset.split)
    rule = run_metric(config, source.format, metric=metric, max_detections=max_detections)
    where = pick_device(feed.device)
    rows = {"model": (run, detector, resize)}
    if folder is not None and (teacher := teacher_of(config, source.classes)) is not None:
        rows["teacher"] = (*teacher, teacher_resize(folder, resize))
    scores: dict[str, Any] = {"metric": rule, "data": str(source.root), "split": source.split}
    with Progress() as progress:
        for remark in remarks(rule, source):
            progress.say(f"warning  {remark}")
        for name, (path, detector, resize) in rows.items():
            unlike = unlike_training(path, resize, source.records)
            if unlike is not None:
                progress.say(f"warning  {name}: {unlike}")
            matched = match_by_name(detector, source.classes, path)
            shared = shared_classes(detector.classes, source.classes)
            if len(shared) < len(source.classes):
                progress.say(f"{name}  knows {len(shared)} of {len(source.classes)} classes: {', '.join(shared)}")
            found = predict_source(matched, source, feed.dataset(resize), where, progress, name)
            result = score(rule, source, found).restricted_to(shared)
            cost = cost_of(detector, resize.output_size((source.records[0].height, source.records[0].width)))
            progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
            scores[name] = {"summary": result.summary, "per_class": result.per_class, "cost": asdict(cost)}
    if json_file is not None:
        write_json(json_file, scores)


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
