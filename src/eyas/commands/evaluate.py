"""`eyas evaluate`: the score of a trained detector, beside its teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyas.args import BatchArgs, MetricName, SplitArgs


def evaluate(
    run: Path,
    subset: SplitArgs = SplitArgs(),
    best: bool = False,
    metric: MetricName | None = None,
    feed: BatchArgs = BatchArgs(),
    json_file: Path | None = None,
) -> None:
    """Score a trained detector per class, beside its teacher where it had one, with its size and speed.

    Args:
        run: run folder of a training, or an ONNX file that export made.
        best: take the best checkpoint instead of the last.
        metric: the rules to score by; the run's own, or the data format's, when left out.
        json_file: also write the metrics and costs there.
    """
    from eyas.evaluation import default_metric
    from eyas.evaluation.ground_truth import remarks
    from eyas.evaluation.predict import predict_source, score
    from eyas.export.formats import cost_of, open_detector
    from eyas.runs.checkpoint import SPEC, ModelSpec
    from eyas.runs.config import recorded_config
    from eyas.runs.opening import load
    from eyas.runs.results import run_source
    from eyas.tools.devices import pick_device
    from eyas.tools.files import write_json
    from eyas.tools.progress import Progress

    (resize, detector), config = open_detector(run, best=best), recorded_config(run)
    source = run_source(run, detector.classes, data=subset.data, split=subset.split)
    rule: str = metric or config.get("run", {}).get("metric") or default_metric(source.format)
    where = pick_device(feed.device)
    rows = {"model": (run, detector)}
    teacher = config.get("teacher")
    there = teacher is not None and Path(teacher, SPEC).is_file()
    if teacher is not None and there and ModelSpec.load(Path(teacher)).classes == detector.classes:
        rows["teacher"] = (Path(teacher), load(teacher))
    scores: dict[str, Any] = {"metric": rule, "data": str(source.root), "split": source.split}
    with Progress() as progress:
        for remark in remarks(rule, source):
            progress.say(f"warning  {remark}")
        for name, (path, detector) in rows.items():
            found = predict_source(detector, source, feed.dataset(resize), where, progress, name)
            result = score(rule, source, found)
            cost = cost_of(detector, resize.output_size((source.records[0].height, source.records[0].width)))
            progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
            scores[name] = {"summary": result.summary, "per_class": result.per_class, "cost": asdict(cost)}
    if json_file is not None:
        write_json(json_file, scores)
