"""`eyas export`: a trained detector to a file, which is compared with PyTorch before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from eyas.args import DataArgs, at_least
from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.detectors import deploy
from eyas.evaluation import default_metric
from eyas.evaluation.cost import count_flops
from eyas.export.check import MAP_TOLERANCE
from eyas.export.formats import EXPORTERS
from eyas.export.protocols import Exporter, Files
from eyas.export.trial import COMPARED, INT8, PYTORCH, ExportImages, Trial
from eyas.tools.files import could_not_write, make_folder, write_atomic
from eyas.tools.tables import as_text
from eyas.types import Detector, EyasError, Size


def export_detector(
    detector: Detector,
    out: Path,
    source: DataSource,
    *,
    runtime: str = "onnxruntime",
    precision: str = "float32",
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
        out: the file; it ends in the suffix of the runtime's files.
        source: images to compare on.
        runtime: a key of `eyas.export.formats.EXPORTERS`.
        precision: what the written file is run in, one of the runtime's `Exporter.precisions`. All of them are scored
            and timed; the first, float32, is the one that must equal PyTorch.
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
    exporter = chosen_exporter(runtime, precision)
    at_least(1, calibration=calibration, runs=runs)
    if not tolerance > 0:
        raise EyasError(f"tolerance must be above 0, got {tolerance}")
    int8_file = out.with_name(f"{out.stem}.int8{out.suffix}")
    _remove_earlier(out, int8_file, exporter.suffixes)
    deployed, size = deploy(detector), largest_input(resize, source)
    fixed = None if dynamic_size else size
    say(f"export    tracing {name} at {size[0]} x {size[1]}")
    model = exporter.trace(deployed, size, raw=raw, dynamic_size=dynamic_size)
    values = file_metadata(name, resize, detector, fixed=fixed, traced=size, raw=raw)
    rows = {row_name(exporter, one): exporter.build(model, values, one, heads=raw) for one in exporter.precisions()}
    images = ExportImages(source, DataArgs(resize=resize, batch_size=1, workers=workers), fixed)
    trial = Trial(detector, deployed, exporter, images, metric or default_metric(source.format), raw)
    say(f"export    comparing outputs with PyTorch's, then scores on {len(source.records)} images")
    differences = trial.differences(exporter.build(model, values, exporter.precisions()[0], heads=True))
    scores = trial.scores(rows)
    if wrong := trial.faults(differences, scores[PYTORCH], scores[next(iter(rows))], tolerance):
        raise EyasError(f"{out}: the exported {name} differs from PyTorch's; nothing was written: {'; '.join(wrong)}")
    shipped = row_name(exporter, precision)
    files = {out: rows[shipped]}
    if training is not None:
        say(f"export    quantising by {calibration} training images")
        seen = replace(images, source=training).fitting().first(calibration)
        files[int8_file] = rows[INT8] = exporter.quantise(rows[shipped], seen)
        scores[INT8] = trial.score(INT8, rows[INT8])
    free = trial.score_without_padding()
    say(f"export    timing {runs} predictions of each")
    times, sizes = trial.latencies(rows, runs), _write(files)
    return {
        "file": str(out), "model": name, "data": str(source.root), "split": source.split, "metric": trial.metric,
        "images": len(source.records), "size": fixed, "raw": raw, "shipped": shipped,
        "advice": exporter.advice(precision), "difference": differences, "score": scores, "latency_ms": times,
        "bytes": sizes, "score_without_padding": free,
    }  # fmt: skip


def chosen_exporter(runtime: str, precision: str) -> Exporter:
    """The exporter of a runtime. Raises EyasError when there is none, it is not installed, or lacks the precision."""
    if runtime not in EXPORTERS:
        raise EyasError(f"there is no runtime {runtime!r}; choose from {', '.join(EXPORTERS)}")
    exporter = EXPORTERS[runtime]
    exporter.require()
    if precision not in exporter.precisions():
        found = " and ".join(exporter.precisions())
        raise EyasError(f"--precision {precision}: on this machine {exporter.runtime} computes in {found}")
    return exporter


def largest_input(resize: Resize, source: DataSource) -> Size:
    """(height, width) that hold every image of a data set after the resize."""
    sizes = (resize.output_size((one.height, one.width)) for one in source.records)
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def row_name(exporter: Exporter, precision: str) -> str:
    """The runtime's name in a table, with the precision where it has several."""
    return exporter.runtime if len(exporter.precisions()) == 1 else f"{exporter.runtime} {precision}"


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
    free = result["score_without_padding"]
    padded = (
        ""
        if free is None
        else (
            f"\nimages are padded to {shape}; in their own sizes PyTorch has mAP {free:.4f}. If that is better, give "
            "--dynamic_size true"
        )
    )
    run_as = f", run as {result['shipped']}; {result['advice']}" if result["advice"] else ""
    largest = ", ".join(f"{name} {value:.1e}" for name, value in result["difference"].items())
    return (
        f"{result['file']}   {result['model']}, {shape}, any number of images, {inside}\n{as_text(rows)}\n"
        f"mAP ({result['metric']}) on {result['images']} images of {result['split']}, tolerance {MAP_TOLERANCE:g}"
        f"{padded}\n"
        f"largest difference on {min(COMPARED, result['images'])} images: {largest}\nwritten: {written}{run_as}"
    )


def _write(files: Mapping[Path, Files]) -> dict[str, int]:
    """Write each set of files under its name, the one that is opened last. Bytes by file name."""
    sizes = {}
    for out, contents in files.items():
        make_folder(out.parent)
        for suffix, content in reversed(list(contents.items())):
            write_atomic(out.with_suffix(suffix), partial(Path.write_bytes, data=content))
            sizes[out.with_suffix(suffix).name] = len(content)
    return sizes


def _remove_earlier(out: Path, int8_file: Path, suffixes: Sequence[str]) -> None:
    """Remove the files of an earlier export, so that they are not taken for new ones if this export fails.

    Raises EyasError where the name has not the suffix by which the file is opened again.
    """
    if out.suffix != suffixes[0]:
        raise EyasError(f"{out}: give --out a name that ends in {suffixes[0]}")
    for path in (one.with_suffix(suffix) for one in (out, int8_file) for suffix in suffixes):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise could_not_write(path, error) from error
