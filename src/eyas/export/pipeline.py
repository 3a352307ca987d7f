"""`eyas export`: a trained detector to a file, which is compared with PyTorch before it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyas.args import DataArgs, at_least
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.data.worker_watch import safe_batches
from eyas.detectors import deploy
from eyas.evaluation import default_metric
from eyas.evaluation.cost import count_flops
from eyas.evaluation.predict import predict_records, score, val_loader
from eyas.export.check import (
    MAP_TOLERANCE,
    CompletedRuntime,
    failures,
    latencies,
    raw_differences,
    same_score,
)
from eyas.export.formats import EXPORTERS, ExportedDetector, pad_to
from eyas.export.ties import TAKES, BreakTies
from eyas.ops.pixels import as_float
from eyas.tools.files import could_not_write, make_folder, write_atomic
from eyas.tools.progress import Progress
from eyas.tools.tables import as_text
from eyas.types import Detector, EyasError, Size, Target

COMPARED = 16
"""Number of images on which head outputs are compared and latency is measured."""
PYTORCH, INT8 = "PyTorch", "INT8"


def export_detector(
    detector: Detector,
    out: Path,
    source: DataSource,
    *,
    format: str = "onnx",
    name: str = "custom",
    resize: Resize = Resize(),
    raw: bool = False,
    dynamic_size: bool = False,
    training: DataSource | None = None,
    metric: str | None = None,
    tolerance: float = 1e-3,
    calibration: int = 64,
    runs: int = 20,
    workers: int = 0,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Export a detector and compare the file with PyTorch; nothing is written where they differ.

    Args:
        detector: in evaluation mode, on the CPU.
        out: the file.
        source: images to compare on.
        format: a key of `eyas.export.formats.EXPORTERS`.
        name: the kind of detector, for the file's metadata.
        resize: the resize of its input.
        raw: head outputs only, without detections and NMS.
        dynamic_size: leave the input's height and width open, not only the number of images.
        training: images for the ranges of 8-bit integers; without them there is no INT8 file.
        metric: as `eyas.evaluation.evaluate` takes it; by default the data format's.
        tolerance: largest difference of an output, relative to its largest value or to 1 if that is more.
        calibration: number of training images for the ranges.
        runs: timed predictions of each detector, of one image on one thread.
        workers: processes that decode images.
        say: called with a line when each part of the work begins.

    Returns:
        Differences, scores, latencies and file sizes; `summary` prints them.

    Raises:
        EyasError: a detector that has no deployed form, that cannot be traced, or whose file differs from PyTorch.
    """
    if format not in EXPORTERS:
        raise EyasError(f"there is no export format {format!r}; choose from {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[format]
    exporter.require()
    at_least(1, calibration=calibration, runs=runs)
    if not tolerance > 0:
        raise EyasError(f"tolerance must be above 0, got {tolerance}")
    int8_file = out.with_name(f"{out.stem}.int8{exporter.suffix}")
    _remove_earlier(out, int8_file)
    deployed, rule = deploy(detector), metric or default_metric(source.format)
    heights, widths = zip(*(resize.output_size((one.height, one.width)) for one in source.records), strict=True)
    size = (max(heights), max(widths))  # holds every resized image
    fixed = None if dynamic_size else size
    say(f"export    tracing {name} at {size[0]} x {size[1]}")
    model = exporter.trace(deployed, size, raw=raw, dynamic_size=dynamic_size)
    metadata = file_metadata(name, resize, detector, fixed=fixed, traced=size, raw=raw)
    shipped, complete = exporter.serialise(model, metadata, raw=raw)
    feed = CalibrationImages(source, DataArgs(resize=resize, batch_size=1, workers=workers), fixed)
    say(f"export    comparing outputs with PyTorch's, then scores on {len(source.records)} images")
    differences = raw_differences(deployed, exporter.open(complete), feed.images(COMPARED))

    def opened(content: bytes, threads: int | None = None) -> Detector:
        runtime = exporter.open(content, threads)
        return ExportedDetector(CompletedRuntime(runtime, deployed) if raw else runtime)

    rows = {PYTORCH: detector, exporter.runtime: opened(shipped)}
    scores = {row: feed.score(row, one, rule) for row, one in rows.items()}
    expected = feed.nearest_score(scores[exporter.runtime], scores[PYTORCH], detector, rule)
    if wrong := failures(differences, tolerance, expected, scores[exporter.runtime]):
        raise EyasError(f"{out}: the exported {name} differs from PyTorch's; nothing was written: {'; '.join(wrong)}")
    files = {out: shipped}
    if training is not None:
        say(f"export    quantising by {calibration} training images")
        files[int8_file] = exporter.quantise(shipped, replace(feed, source=training).images(calibration))
        scores[INT8] = feed.score(INT8, opened(files[int8_file]), rule)
    single = zip(list(scores)[1:], files.values(), strict=True)
    calls = {PYTORCH: detector.predict, **{row: opened(content, threads=1).predict for row, content in single}}
    say(f"export    timing {runs} predictions of each")
    times = latencies(calls, list(feed.images(COMPARED)), runs)
    make_folder(out.parent)
    for path, content in files.items():
        write_atomic(path, partial(Path.write_bytes, data=content))
    return {
        "file": str(out), "model": name, "data": str(source.root), "split": source.split, "metric": rule,
        "images": len(source.records), "size": fixed, "raw": raw, "difference": differences, "score": scores,
        "latency_ms": times, "bytes": {path.name: len(content) for path, content in files.items()},
    }  # fmt: skip


@dataclass(frozen=True)
class CalibrationImages:
    """Images of a data set, one at a time, resized and padded to a size (height, width), if any."""

    source: DataSource
    feed: DataArgs
    size: Size | None

    def batches(self) -> Iterator[tuple[Tensor, list[Target]]]:
        """Every image with its target."""
        for images, targets in safe_batches(val_loader(self.source, self.feed)):
            pixels = as_float(images)
            yield (pixels if self.size is None else pad_to(pixels, self.size)), targets

    def images(self, count: int) -> Iterator[Tensor]:
        """The first ``count`` images, each (1, 3, height, width)."""
        few = replace(self, source=replace(self.source, records=self.source.records[:count]))
        return (images for images, _ in few.batches())

    def score(self, name: str, detector: Detector, metric: str) -> float:
        """The primary metric of a detector on all images."""
        with Progress() as progress:
            found = predict_records(detector, self.batches(), self.source, progress, name)
        return score(metric, self.source, found).primary

    def nearest_score(self, wanted: float, own: float, detector: Detector, metric: str) -> float:
        """The `score` of PyTorch's detector: ``own``, or with equal scores in another order if ``wanted`` differs."""
        found = [own]
        for take in TAKES:
            if any(same_score(one, wanted) for one in found):
                break
            with BreakTies(take):
                found.append(self.score(PYTORCH, detector, metric))
        return min(found, key=lambda one: abs(one - wanted))


def file_metadata(
    name: str, resize: Resize, detector: Detector, *, fixed: Size | None, traced: Size, raw: bool
) -> dict[str, Any]:
    """The metadata of a file, by name; `eyas.export.formats.ExportedDetector` reads it."""
    with torch.no_grad():
        flops = count_flops(detector, torch.rand(1, 3, *traced, generator=torch.Generator().manual_seed(0)))
    return {
        "eyas.version": metadata.version("eyas"),
        "eyas.model": name,
        "eyas.classes": list(detector.classes),
        "eyas.resize": asdict(resize),
        "eyas.size": fixed,
        "eyas.raw": raw,
        "eyas.parameters": sum(parameter.numel() for parameter in detector.network.parameters()),
        "eyas.gflops": flops / 1e9,
    }


def summary(result: Mapping[str, Any]) -> str:
    """The result of `export_detector` as a few lines of text."""
    size = result["size"]
    shape = "any size" if size is None else f"{size[0]} x {size[1]}"
    inside = "the heads' outputs" if result["raw"] else "detections inside"
    written = ", ".join(f"{name} {count / 2**20:.1f} MB" for name, count in result["bytes"].items())
    rows = [
        ["", *result["score"]],
        ["mAP", *(f"{score:.4f}" for score in result["score"].values())],
        ["ms per image, 1 thread", *(f"{result['latency_ms'][name]:.1f}" for name in result["score"])],
    ]
    largest = ", ".join(f"{name} {value:.1e}" for name, value in result["difference"].items())
    return (
        f"{result['file']}   {result['model']}, {shape}, any number of images, {inside}\n{as_text(rows)}\n"
        f"mAP ({result['metric']}) on {result['images']} images of {result['split']}, tolerance {MAP_TOLERANCE:g}\n"
        f"largest difference on {min(COMPARED, result['images'])} images: {largest}\nwritten: {written}"
    )


def _remove_earlier(*paths: Path) -> None:
    """Remove the files of an earlier export, so that they are not taken for new ones if this export fails."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise could_not_write(path, error) from error
