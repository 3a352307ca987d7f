"""`eyas export`: a trained detector to a file for a runtime, which is compared with PyTorch before it is written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from eyas.args import WORKER_LIMIT, MetricName, SplitArgs, at_least, between
from eyas.tools.output_paths import check_output_files

RuntimeName = Literal["onnxruntime", "openvino"]
"""The keys of `eyas.export.formats.EXPORTERS`, here because the command line needs them without the exporters."""
RuntimePrecision = Literal["float32", "bfloat16", "float16"]


def export(
    run: Path,
    out: Path | None = None,
    runtime: RuntimeName = "onnxruntime",
    precision: RuntimePrecision = "float32",
    raw: bool = False,
    dynamic_size: bool = False,
    int8: bool = False,
    subset: SplitArgs = SplitArgs(),
    best: bool = False,
    metric: MetricName | None = None,
    tolerance: float = 1e-3,
    calibration: int = 64,
    runs: int = 20,
    workers: int = 0,
    json_file: Path | None = None,
) -> None:
    """Export a trained detector for a runtime and compare it with PyTorch; nothing is written where they differ.

    Args:
        run: run folder of a training.
        out: the file; by default RUN/student.onnx or RUN/student.xml, named after the run's weights.
        runtime: what the file is for: onnxruntime takes ONNX, openvino an IR (.xml beside .bin).
        precision: what evaluate and predict run the file in. float32 is what must equal PyTorch; openvino also has the
            CPU's own default, bfloat16 on many servers, and the table shows what that costs.
        raw: head outputs only, without detections and NMS.
        dynamic_size: leave the input's height and width open, not only the number of images.
        int8: also write FILE.int8, quantised to 8-bit integers by onnxruntime, or by NNCF for openvino, and score it.
        best: export the best checkpoint instead of the last.
        metric: the rules to score by; by default the run's own, or the data format's.
        tolerance: largest difference of an output, relative to its largest value or to 1 if that is more.
        calibration: number of training images that give the ranges of 8-bit integers.
        runs: timed predictions of each detector, of one image on one thread.
        workers: processes that decode images.
        json_file: also write the results there.
    """
    at_least(1, calibration=calibration, runs=runs)
    between(0, WORKER_LIMIT, workers=workers)
    between(0, 1, tolerance=tolerance)
    from eyas.evaluation import run_metric
    from eyas.export.pipeline import chosen_exporter, export_detector, summary
    from eyas.runs.card import model_card
    from eyas.runs.checkpoint import ModelSpec
    from eyas.runs.config import recorded_config
    from eyas.runs.opening import load
    from eyas.runs.results import run_source
    from eyas.tools.files import write_json, write_text
    from eyas.tools.progress import Progress

    check_output_files(out, json_file)
    exporter = chosen_exporter(runtime, precision)
    spec, config = ModelSpec.load(run), recorded_config(run)
    train_split = str(config.get("dataset", {}).get("train_split", "train"))
    out = out or run / f"{Path(spec.weights).stem}{exporter.suffixes[0]}"
    check_output_files(out)
    source = run_source(run, spec.classes, data=subset.data, split=subset.split, boxes=subset.boxes)
    for warning in source.warnings:
        print(f"warning  {warning}")
    result = export_detector(
        load(run, best=best),
        out,
        source,
        runtime=runtime,
        precision=precision,
        name=spec.model,
        resize=spec.resize,
        raw=raw,
        dynamic_size=dynamic_size,
        training=run_source(run, spec.classes, data=subset.data, split=train_split, boxes=subset.boxes)
        if int8
        else None,
        metric=run_metric(config, source.format, metric=metric),
        tolerance=tolerance,
        calibration=calibration,
        runs=runs,
        workers=workers,
        say=Progress().say,
    )
    if json_file is not None:
        write_json(json_file, {**result, "run": str(run)})
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result["score"].items())
    more = {"file": f"{out.name}, compared with PyTorch", f"mAP ({result['metric']}) on {source.split}": scores}
    card = out.with_suffix(".md")
    write_text(card, model_card(run, more))
    print(f"{summary(result)}\nmodel card: {card}")
    if not raw:
        print(
            f"next: {evaluation_of(out, config, subset, source.split)}, or eyas predict {shlex.quote(str(out))} IMAGES"
        )


def evaluation_of(file: Path, config: Mapping[str, Any], subset: SplitArgs, split: str) -> str:
    """The command that evaluates an exported file on the data of its comparison; the file itself records none."""
    options = {
        "data": subset.data or config.get("data"),
        "split": split,
        "boxes": subset.boxes or config.get("dataset", {}).get("boxes"),
    }
    given = (word for name, value in options.items() if value is not None for word in (f"--{name}", str(value)))
    return shlex.join(["eyas", "evaluate", str(file), *given])
