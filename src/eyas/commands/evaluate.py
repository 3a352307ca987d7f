"""`eyas evaluate`: the score of a trained detector, beside its teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from eyas.args import DataArgs, MetricName
from eyas.evaluation import default_metric
from eyas.evaluation.predict import predict_source, score
from eyas.export.runtime import cost_of, open_detector
from eyas.runs.checkpoint import SPEC, ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import load
from eyas.runs.results import run_source
from eyas.tools.devices import pick_device
from eyas.tools.files import write_json
from eyas.tools.progress import Progress


def evaluate(
    run: Path,
    data: Path | None = None,
    split: str | None = None,
    best: bool = False,
    metric: MetricName | None = None,
    batch_size: int = 8,
    workers: int = 1,
    device: Literal["auto", "cpu"] = "auto",
    json_file: Path | None = None,
) -> None:
    """Score a trained detector per class, beside its teacher where it had one, with its size and speed.

    Args:
        run: run folder of a training, or an ONNX file that export made.
        data: folder of a data set; the run's own when left out.
        split: split to score; the run's validation split when left out.
        best: take the best checkpoint instead of the last.
        metric: the rules to score by; the run's own, or the data format's, when left out.
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
        json_file: also write the metrics and costs there.
    """
    (resize, detector), config = open_detector(run, best=best), recorded_config(run)
    source = run_source(run, detector.classes, data=data, split=split)
    rule: str = metric or config.get("run", {}).get("metric") or default_metric(source.format)
    feed = DataArgs(resize=resize, batch_size=batch_size, workers=workers)
    where = pick_device(device)
    rows = {"model": (run, detector)}
    teacher = config.get("teacher")
    there = teacher is not None and Path(teacher, SPEC).is_file()
    if teacher is not None and there and ModelSpec.load(Path(teacher)).classes == detector.classes:
        rows["teacher"] = (Path(teacher), load(teacher))
    scores: dict[str, Any] = {"metric": rule, "data": str(source.root), "split": source.split}
    with Progress() as progress:
        for name, (path, detector) in rows.items():
            result = score(rule, source, predict_source(detector, source, feed, where, progress, name))
            cost = cost_of(detector, resize.output_size((source.records[0].height, source.records[0].width)))
            progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
            scores[name] = {"summary": result.summary, "per_class": result.per_class, "cost": asdict(cost)}
    if json_file is not None:
        write_json(json_file, scores)
