"""`eyas export`: a trained detector as an ONNX file that was compared with PyTorch before it got its name."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyas.args import DataArgs
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.data.workers import safe_batches
from eyas.detectors.deploy import deploy
from eyas.detectors.deployed import Deployed
from eyas.evaluation import default_metric
from eyas.evaluation.cost import count_flops
from eyas.evaluation.predict import predict_records, score, val_loader
from eyas.export.check import MAP_TOLERANCE, failures, latencies, quantised, raw_differences, runner
from eyas.export.graph import add_metadata, require_onnx, to_onnx, without_heads
from eyas.export.runtime import open_session, pad_to
from eyas.ops.pixels import as_float
from eyas.tools.files import could_not_write, write_atomic
from eyas.tools.progress import Progress
from eyas.tools.tables import as_text
from eyas.types import Detector, EyasError, Size, Target

COMPARED = 16
"""Images whose outputs of the heads are compared, and on which latency is measured."""


def export_detector(
    detector: Detector,
    out: Path,
    source: DataSource,
    *,
    name: str = "custom",
    resize: Resize = Resize(),  # noqa: B008 (frozen)
    raw: bool = False,
    dynamic_size: bool = False,
    training: DataSource | None = None,
    metric: str | None = None,
    tolerance: float = 1e-3,
    calibration: int = 64,
    runs: int = 20,
    workers: int = 0,
) -> dict[str, Any]:
    """`export` of a detector that you have in Python; the figures, of which `summary` makes text.

    Args:
        detector: in evaluation mode, on the CPU.
        out: the file.
        source: what it is compared on.
        name: of the kind of detector, for the file's metadata.
        resize: size of its input.
        raw: see `export`.
        dynamic_size: see `export`.
        training: images for the ranges of 8-bit integers; without it there is no INT8 file.
        metric: a name in `eyas.evaluation.METRICS`; the data format's when left out.
        tolerance: see `export`.
        calibration: see `export`.
        runs: see `export`.
        workers: see `export`.

    Raises:
        EyasError: a detector that has no deployed form, that the exporter cannot trace, or that differs.
    """
    require_onnx()
    if min(calibration, runs) < 1 or not tolerance > 0:
        raise EyasError("--calibration and --runs must be at least 1, and --tolerance above 0")
    _remove_earlier(out, _int8_file(out))
    deployed, rule = deploy(detector), metric or default_metric(source.format)
    size = largest_size(source, resize)
    model = to_onnx(deployed, size, raw=raw, dynamic_size=dynamic_size)
    fixed = None if dynamic_size else size
    add_metadata(model, describe(name, resize, detector, fixed=fixed, traced=size, raw=raw))
    shipped = (model if raw else without_heads(model)).SerializeToString()
    feed = CalibrationImages(source, DataArgs(resize=resize, batch_size=1, workers=workers), fixed)
    differences = raw_differences(deployed, open_session(model.SerializeToString()), feed.images(COMPARED))
    rows: dict[str, Detector] = {"PyTorch": detector, "onnxruntime": runner(shipped, deployed, raw=raw)}
    scores = {row: feed.score(row, one, rule) for row, one in rows.items()}
    wrong = failures(differences, tolerance, scores["PyTorch"], scores["onnxruntime"])
    if wrong:
        raise EyasError(f"{out}: the exported {name} is not PyTorch's, nothing was written: {'; '.join(wrong)}")
    files = {out: shipped}
    if training is not None:
        files[_int8_file(out)] = content = _quantise(shipped, replace(feed, source=training), calibration)
        rows["INT8"] = runner(content, deployed, raw=raw)
        scores["INT8"] = feed.score("INT8", rows["INT8"], rule)
    times = _latencies(rows, files, deployed, list(feed.images(COMPARED)), raw, runs)
    for path, content in files.items():
        write_atomic(path, partial(Path.write_bytes, data=content))
    return {
        "file": str(out), "model": name, "data": str(source.root), "split": source.split, "metric": rule,
        "images": len(source.records), "size": fixed, "raw": raw, "difference": differences, "score": scores,
        "latency_ms": times, "bytes": {path.name: len(content) for path, content in files.items()},
    }  # fmt: skip


@dataclass(frozen=True)
class CalibrationImages:
    """The images that are compared: one at a time, resized and, for a fixed size, padded.

    Attributes:
        source: of the images.
        feed: how they are read.
        size: (height, width), or None to leave them.
    """

    source: DataSource
    feed: DataArgs
    size: Size | None

    def batches(self) -> Iterator[tuple[Tensor, list[Target]]]:
        """Every image with its target."""
        for images, targets in safe_batches(val_loader(self.source, self.feed)):
            pixels = as_float(images)
            yield (pixels if self.size is None else pad_to(pixels, self.size)), targets

    def images(self, count: int) -> Iterator[Tensor]:
        """The first images, (1, 3, height, width)."""
        few = replace(self, source=replace(self.source, records=self.source.records[:count]))
        return (images for images, _ in few.batches())

    def score(self, name: str, detector: Detector, metric: str) -> float:
        """The primary figure of a detector on all images."""
        with Progress() as progress:
            task = progress.task(name, len(self.source.records))
            found = predict_records(
                detector, self.batches(), self.source, advance=lambda count: progress.advance(task, count)
            )
            progress.finish(task)
        return score(metric, self.source, found).primary


def largest_size(source: DataSource, resize: Resize) -> Size:
    """(height, width) that holds every image of a source once it is resized."""
    sizes = [resize.output_size((record.height, record.width)) for record in source.records]
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def describe(
    name: str, resize: Resize, detector: Detector, *, fixed: Size | None, traced: Size, raw: bool
) -> dict[str, Any]:
    """What the file says of itself, by name; `eyas.export.runtime.OnnxDetector` reads it."""
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


def summary(figures: Mapping[str, Any]) -> str:
    """The figures of an export as a few lines of text."""
    size = figures["size"]
    shape = "any size" if size is None else f"{size[0]} x {size[1]}"
    inside = "the heads' outputs" if figures["raw"] else "detections inside"
    written = ", ".join(f"{name} {count / 2**20:.1f} MB" for name, count in figures["bytes"].items())
    names = list(figures["score"])
    rows = [
        ["", *names],
        ["mAP", *(f"{figures['score'][name]:.4f}" for name in names)],
        ["ms per image, 1 thread", *(f"{figures['latency_ms'][name]:.1f}" for name in names)],
    ]
    compared = min(COMPARED, figures["images"])
    largest = ", ".join(f"{name} {value:.1e}" for name, value in figures["difference"].items())
    return (
        f"{figures['file']}   {figures['model']}, {shape}, any number of images, {inside}\n{as_text(rows)}\n"
        f"mAP ({figures['metric']}) on {figures['images']} images of {figures['split']}, "
        f"tolerance {MAP_TOLERANCE:g}\nlargest difference on {compared} images: {largest}\nwritten: {written}"
    )


def _quantise(model: bytes, training: CalibrationImages, count: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return quantised(model, training.images(count), Path(folder))


def _latencies(
    rows: dict[str, Detector], files: dict[Path, bytes], deployed: Deployed, images: list[Tensor], raw: bool, runs: int
) -> dict[str, float]:
    """Of PyTorch and of each file in a session of one thread."""
    calls = {"PyTorch": rows["PyTorch"].predict}
    for name, content in zip(list(rows)[1:], files.values(), strict=True):
        calls[name] = runner(content, deployed, raw=raw, threads=1).predict
    return latencies(calls, images, runs)


def _int8_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.int8.onnx")


def _remove_earlier(*paths: Path) -> None:
    """A file of an earlier export must not pass for one of this run when this export fails."""
    for path in paths:
        try:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        except OSError as error:
            raise could_not_write(path, error) from error
