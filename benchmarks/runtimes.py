"""One run's student in PyTorch and in every runtime of `eyas export`: mAP, milliseconds, MB.

``python -m benchmarks.runtimes RUN DATA [--json FILE] [--runs N] [--calibration N]``. Each file is exported, compared
with PyTorch, opened again from the disk, and timed: one image, one thread, detections included, all rows in turns.
Images that calibrate 8-bit integers come from the training split, the scores from the validation split.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from eyas.args import DataArgs
from eyas.data import DataSource
from eyas.evaluation import run_metric
from eyas.evaluation.cost import cpu_threads
from eyas.export.check import latencies
from eyas.export.formats import EXPORTERS, open_detector
from eyas.export.pipeline import export_detector, row_name
from eyas.export.trial import COMPARED, INT8, PYTORCH, ExportImages
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.opening import load
from eyas.runs.results import run_source
from eyas.tools.tables import as_text

PACKAGES = ("torch", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class Row:
    """A detector's file, its score and its size in bytes."""

    file: Path
    score: float
    size: int


def exported(run: Path, data: Path, folder: Path, calibration: int) -> tuple[dict[str, Row], str]:
    """PyTorch's row, and one of each runtime, precision and 8-bit file, by name; and the metric."""
    spec, config = ModelSpec.load(run), recorded_config(run)
    val, train = splits(run, data)
    metric, rows = run_metric(config, val.format), {}
    for key, exporter in EXPORTERS.items():
        for index, precision in enumerate(exporter.precisions()):
            name = row_name(exporter, precision)
            out = folder / f"{key}_{precision}{exporter.suffixes[0]}"
            result = export_detector(
                load(run),
                out,
                val,
                runtime=key,
                precision=precision,
                name=spec.model,
                resize=spec.resize,
                training=None if index else train,
                metric=metric,
                calibration=calibration,
                runs=1,
                say=print,
            )
            rows.setdefault(PYTORCH, Row(run, result["score"][PYTORCH], (run / spec.weights).stat().st_size))
            rows[name] = Row(out, result["score"][name], written(out, exporter.suffixes))
            if INT8 in result["score"]:
                int8 = out.with_name(f"{out.stem}.int8{out.suffix}")
                rows[f"{exporter.runtime} {INT8}"] = Row(int8, result["score"][INT8], written(int8, exporter.suffixes))
    return rows, metric


def splits(run: Path, data: Path) -> tuple[DataSource, DataSource]:
    """The validation images, and those that calibrate."""
    classes = ModelSpec.load(run).classes
    train = str(recorded_config(run).get("dataset", {}).get("train_split", "train"))
    return run_source(run, classes, data=data), run_source(run, classes, data=data, split=train)


def written(file: Path, suffixes: tuple[str, ...]) -> int:
    """Bytes of a model's files."""
    return sum(file.with_suffix(suffix).stat().st_size for suffix in suffixes)


def timed(rows: dict[str, Row], run: Path, data: Path, runs: int) -> dict[str, float]:
    """Median milliseconds of each row, in turns, on one thread."""
    resize = ModelSpec.load(run).resize
    with cpu_threads(1):
        detectors = {name: open_detector(row.file)[1] for name, row in rows.items()}
    images = ExportImages(splits(run, data)[0], DataArgs(resize=resize, batch_size=1, workers=0), None).first(COMPARED)
    return latencies({name: detector.predict for name, detector in detectors.items()}, list(images), runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--runs", type=int, default=100, help="timed predictions of each row")
    parser.add_argument("--calibration", type=int, default=64, help="training images that calibrate 8-bit integers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, metric = exported(chosen.run, chosen.data, Path(folder), chosen.calibration)
        times = timed(rows, chosen.run, chosen.data, chosen.runs)
    found = {
        name: {"map": row.score, "ms": round(times[name], 2), "mb": round(row.size / 2**20, 2)}
        for name, row in rows.items()
    }
    cells = [[name, f"{row['map']:.4f}", f"{row['ms']:.1f}", f"{row['mb']:.1f}"] for name, row in found.items()]
    print(as_text([["", "mAP", "ms", "MB"], *cells]))
    if chosen.json is not None:
        versions = {name: metadata.version(name) for name in PACKAGES}
        machine = {"machine": platform.machine(), "versions": versions, "metric": metric, "runs": chosen.runs}
        chosen.json.write_text(json.dumps({**machine, "rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
