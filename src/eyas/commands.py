"""`eyas data`, `eyas evaluate`, `eyas predict` and `eyas recipes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from eyas.args import DataArgs
from eyas.checkpoint import SPEC, ModelSpec, load
from eyas.data import DataSource, eval_transform, read, to_record_frame
from eyas.data.images import SUFFIXES, decode, image_size
from eyas.data.report import check_images, report
from eyas.data.workers import told
from eyas.engine import val_loader
from eyas.evaluation import EvaluationResult, default_metric
from eyas.files import make_folder, write_atomic, write_json
from eyas.inference import anchor_grids, on_cpu, predict_records, score
from eyas.onnx_runtime import cost_of, open_detector
from eyas.pixels import as_float
from eyas.plots import draw_detections
from eyas.progress import Progress
from eyas.runlog import CONFIG
from eyas.types import Detector, EyasError, Prediction, Record


def data(
    path: Path,
    split: list[str] | None = None,
    format: str | None = None,
    classes: list[str] | None = None,
    images: bool = False,
    model: Path | None = None,
) -> None:
    """Say what is in a data set, and every box or record that would be dropped, with file and line.

    Args:
        path: folder of a data set.
        split: the splits to look at; train and val when left out.
        format: coco, voc, kitti or yolo; recognised from the folder when left out.
        classes: class names in label order; taken from the data set when left out.
        images: also decode every image, and list those that a training would stop at.
        model: run folder of a detector, whose anchors are then compared with the boxes in its input.
    """
    resize = grids = None
    if model is not None:
        resize, grids = ModelSpec.load(model).resize, partial(anchor_grids, load(model))
    for name in split or ["train", "val"]:
        source = read(path, name, format=format, classes=classes)
        if images:
            source = replace(source, problems=(*source.problems, *check_images(source)))
        print(report(source, resize=resize, grids=grids), end="\n\n")


def evaluate(
    run: Path,
    data: Path | None = None,
    split: str | None = None,
    best: bool = False,
    metric: Literal["coco", "voc", "kitti"] | None = None,
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
        best: take the best checkpoint in place of the last.
        metric: coco, voc or kitti; the run's own, or the data format's, when left out.
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
        json_file: also write the figures there.
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
    figures: dict[str, Any] = {"metric": rule, "data": str(source.root), "split": source.split}
    with Progress() as progress:
        for name, (path, detector) in rows.items():
            result = evaluate_detector(detector, source, feed, rule, where, progress, name)
            cost = cost_of(detector, resize.output_size((source.records[0].height, source.records[0].width)))
            progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
            figures[name] = {"summary": result.summary, "per_class": result.per_class, "cost": asdict(cost)}
    if json_file is not None:
        write_json(json_file, figures)


def run_source(run: Path, classes: Sequence[str], *, data: Path | None = None, split: str | None = None) -> DataSource:
    """The data that a run folder is looked at with: its own, and its validation split, where nothing else is said.

    Args:
        run: run folder.
        classes: the detector's, in label order.
        data: another folder of a data set.
        split: another split.

    Raises:
        EyasError: the run does not record its data and none is given, or `read` raises it.
    """
    config = recorded_config(run)
    dataset = config.get("dataset", {})
    folder = data or config.get("data")
    if folder is None:
        raise EyasError(f"{run} does not say which data it was trained on; give --data")
    format = dataset.get("format") if data is None else None
    return read(Path(folder), split or dataset.get("val_split", "val"), format=format, classes=classes)


def evaluate_detector(
    detector: Detector,
    source: DataSource,
    feed: DataArgs,
    metric: str,
    device: torch.device,
    progress: Progress,
    name: str = "evaluate",
) -> EvaluationResult:
    """Score a detector on every image of a source."""
    return score(metric, source, find_everywhere(detector, source, feed, device, progress, name))


def find_everywhere(
    detector: Detector, source: DataSource, feed: DataArgs, device: torch.device, progress: Progress, name: str
) -> dict[int, Prediction]:
    """What a detector finds in every image of a source, by record index, behind a bar of that name.

    It is on the CPU afterwards.
    """
    detector.network.to(device)
    task = progress.task(name, len(source.records))
    batches = ((images.to(device), targets) for images, targets in told(val_loader(source, feed)))
    found = predict_records(detector, batches, source, advance=lambda images: progress.advance(task, images))
    progress.finish(task)
    detector.network.cpu()
    return found


def predict(
    run: Path,
    images: Path,
    out: Path = Path("predictions"),
    threshold: float = 0.3,
    best: bool = False,
    device: Literal["auto", "cpu"] = "auto",
) -> None:
    """Detect objects in an image or a folder of images: boxes as JSON, and drawn as PNG.

    Args:
        run: run folder of a training, or an ONNX file that export made.
        images: an image, or a folder that is searched for images.
        out: folder for predictions.json and the drawn images.
        threshold: lowest score that is drawn; the JSON has all.
        best: take the best checkpoint in place of the last.
        device: auto takes the accelerator where there is one; cpu does not.
    """
    drawings = drawings_of(find_images(images), images, out)
    (resize, detector), where = open_detector(run, best=best), pick_device(device)
    detector.network.to(where)
    transform = eval_transform(resize)
    entries: list[dict[str, Any]] = []
    with Progress() as progress, torch.no_grad():
        task = progress.task("predict", len(drawings))
        for path, drawn in drawings.items():
            record = unlabelled(path)
            image = decode(record)
            pixels, _ = transform(image, {"boxes": record.boxes, "labels": record.labels})
            found = on_cpu(detector.predict(as_float(pixels[None].to(where)))[0])
            found = to_record_frame(found, record, (pixels.shape[-2], pixels.shape[-1]))
            entries += as_json(record, found, detector.classes)
            make_folder(drawn.parent)
            draw_detections(drawn, image, found, detector.classes, threshold=threshold)
            progress.advance(task)
    write_json(out / "predictions.json", entries)
    print(f"{len(entries)} detections in {len(drawings)} images: {out / 'predictions.json'} and drawn beside it")


def recipes(action: Literal["list", "copy"] = "list", name: str | None = None) -> None:
    """List the recipes that come with Eyas, or copy one into this folder.

    Args:
        action: list or copy.
        name: the recipe to copy, as listed.
    """
    shipped = shipped_recipes()
    if action == "list":
        for known, path in shipped.items():
            summary = path.read_text().partition("\n")[0].lstrip("# ")
            print(f"{known:<44} {summary}")
        return
    if name not in shipped:
        raise EyasError(f"there is no recipe {name!r}; known are: {', '.join(shipped)}")
    target, text = Path(Path(name).name + ".yaml"), shipped[name].read_text()
    if target.exists() and target.read_text() != text:
        raise EyasError(f"{target} is here already, and is another or was edited; move it away first")
    write_atomic(target, lambda part: part.write_text(text))
    print(f"{target}: its first lines say how to run it")


def shipped_recipes() -> dict[str, Path]:
    """Recipe name -> its file, sorted."""
    root = Path(str(resources.files("eyas"))) / "recipes"
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))}


def recorded_config(run: Path) -> dict[str, Any]:
    """The resolved config of a run; empty where it was made from Python."""
    path = run / CONFIG
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def pick_device(device: Literal["auto", "cpu"]) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator if device == "auto" and accelerator is not None else torch.device("cpu")


def find_images(path: Path) -> list[Path]:
    """The image itself, or every image below a folder, sorted. Raises EyasError when there is none."""
    if path.is_file():
        return [path]
    found = sorted(entry for entry in path.rglob("*") if entry.suffix in SUFFIXES)
    if not found:
        raise EyasError(f"{path}: no image there; give an image or a folder with {', '.join(SUFFIXES)} files")
    return found


def drawings_of(paths: Sequence[Path], root: Path, out: Path) -> dict[Path, Path]:
    """Image -> the PNG of its detections, in the same folders below ``out`` as the images below ``root``.

    Images that differ in their suffix alone keep it: a.jpg.png, a.bmp.png. Raises EyasError when a drawing would
    overwrite an image.
    """
    base = root if root.is_dir() else root.parent
    count = Counter(path.with_suffix("") for path in paths)
    drawings = {}
    for path in paths:
        name = path.name if count[path.with_suffix("")] > 1 else path.stem
        drawings[path] = out / path.relative_to(base).with_name(f"{name}.png")
    inputs = {path.resolve() for path in paths}
    for drawn in drawings.values():
        if drawn.resolve() in inputs:
            raise EyasError(f"{drawn} is one of the images and would be overwritten; choose another --out")
    return drawings


def unlabelled(path: Path) -> Record:
    """A record for an image that has no annotations."""
    width, height = image_size(path)
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return Record(path.stem, path, width, height, boxes, labels, boxes, labels)


def as_json(record: Record, found: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's results format (bbox is x, y, width, height), with the file and the class by name."""
    return [
        {
            "image": str(record.path),
            "category": classes[label],
            "bbox": [round(side, 2) for side in (left, top, right - left, bottom - top)],
            "score": round(confidence, 5),
        }
        for (left, top, right, bottom), label, confidence in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]
