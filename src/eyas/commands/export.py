"""`eyas export`: a trained detector as an ONNX file that was compared with PyTorch before it got its name."""

from __future__ import annotations

from pathlib import Path

from eyas.args import MetricName
from eyas.export.graph import require_onnx
from eyas.export.pipeline import export_detector, summary
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import load
from eyas.runs.results import run_source
from eyas.tools.files import write_json


def export(
    run: Path,
    out: Path | None = None,
    raw: bool = False,
    dynamic_size: bool = False,
    int8: bool = False,
    data: Path | None = None,
    split: str | None = None,
    best: bool = False,
    metric: MetricName | None = None,
    tolerance: float = 1e-3,
    calibration: int = 64,
    runs: int = 20,
    workers: int = 0,
    json_file: Path | None = None,
) -> None:
    """Export a trained detector to ONNX and compare it with PyTorch; no file is left where they differ.

    Args:
        run: run folder of a training.
        out: the file; RUN/student.onnx, after the name of the run's weights, when left out.
        raw: the heads' outputs, without detections and NMS.
        dynamic_size: leave the input's height and width open, not the number of images alone.
        int8: also write FILE.int8.onnx, quantised to 8-bit integers, and score it.
        data: folder of a data set to compare on; the run's own when left out.
        split: split to compare on; the run's validation split when left out.
        best: take the best checkpoint in place of the last.
        metric: the rules to score by; the run's own, or the data format's, when left out.
        tolerance: largest difference of an output, relative to its largest value or to 1 if that is more.
        calibration: training images from which the 8-bit ranges are taken.
        runs: timed predictions of each, of one image on one thread.
        workers: processes that decode images.
        json_file: also write the figures there.
    """
    require_onnx()
    spec = ModelSpec.load(run)
    out = out or run / f"{Path(spec.weights).stem}.onnx"
    source = run_source(run, spec.classes, data=data, split=split)
    figures = export_detector(
        load(run, best=best),
        out,
        source,
        name=spec.model,
        resize=spec.resize,
        raw=raw,
        dynamic_size=dynamic_size,
        training=run_source(run, spec.classes, data=data, split=_train_split(run)) if int8 else None,
        metric=metric or recorded_config(run).get("run", {}).get("metric"),
        tolerance=tolerance,
        calibration=calibration,
        runs=runs,
        workers=workers,
    )
    if json_file is not None:
        write_json(json_file, {**figures, "run": str(run)})
    print(summary(figures))


def _train_split(run: Path) -> str:
    return str(recorded_config(run).get("dataset", {}).get("train_split", "train"))
