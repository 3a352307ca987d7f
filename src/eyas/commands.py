"""`eyas data`, `eyas evaluate`, `eyas predict` and `eyas recipes`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from eyas.args import DataArgs
from eyas.benchmark import measure
from eyas.checkpoint import SPEC, ModelSpec, load, write_atomic
from eyas.data import DataSource, eval_transform, read, to_record_frame
from eyas.data.images import SUFFIXES, decode, image_size
from eyas.data.report import report
from eyas.engine import val_loader
from eyas.evaluation import EvaluationResult, default_metric
from eyas.inference import anchor_grids, predict_records, score
from eyas.plots import draw_detections
from eyas.progress import Progress
from eyas.runlog import CONFIG
from eyas.types import Detector, EyasError, Prediction, Record


def data(
    path: Path,
    split: list[str] | None = None,
    format: str | None = None,
    classes: list[str] | None = None,
    model: Path | None = None,
) -> None:
    """Say what is in a data set, and every box or record that would be dropped, with file and line.

    Args:
        path: folder of a data set.
        split: the splits to look at; train and val when left out.
        format: coco, voc, kitti or yolo; recognised from the folder when left out.
        classes: class names in label order; taken from the data set when left out.
        model: run folder of a detector, whose anchors are then compared with the boxes.
    """
    for name in split or ["train", "val"]:
        source = read(path, name, format=format, classes=classes)
        if model is None:
            print(report(source), end="\n\n")
            continue
        detector, spec = load(model), ModelSpec.load(model)
        print(report(source, resize=spec.resize, grids=lambda size, own=detector: anchor_grids(own, size)), end="\n\n")


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
        run: run folder of a training.
        data: folder of a data set; the run's own when left out.
        split: split to score; the run's validation split when left out.
        best: take the best checkpoint in place of the last.
        metric: coco, voc or kitti; the data format's own when left out.
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
        json_file: also write the figures there.
    """
    config = run_config(run)
    dataset = config.get("dataset", {})
    folder = data or _needed(config.get("data"), f"{run} does not say which data it was trained on; give --data")
    spec = ModelSpec.load(run)
    source = read(
        Path(folder),
        split or dataset.get("val_split", "val"),
        format=dataset.get("format") if data is None else None,
        classes=spec.classes,
    )
    metric = metric or default_metric(source.format)
    feed = DataArgs(resize=spec.resize, batch_size=batch_size, workers=workers)
    where = pick_device(device)
    rows = {"model": (run, load(run, best=best))}
    teacher = config.get("teacher")
    if teacher is not None and Path(teacher, SPEC).is_file():
        rows["teacher"] = (Path(teacher), load(teacher))
    figures: dict[str, Any] = {"metric": metric, "data": str(folder), "split": source.split}
    with Progress() as progress:
        for name, (path, detector) in rows.items():
            result = evaluate_detector(detector, source, feed, metric, where, progress, name)
            cost = measure(detector, spec.resize.output_size((source.records[0].height, source.records[0].width)))
            progress.say(f"{name}  {path}\n{result.table()}\n{result.headline()}   {cost.headline()}\n")
            figures[name] = {"summary": result.summary, "per_class": result.per_class, "cost": asdict(cost)}
    if json_file is not None:
        write_atomic(json_file, lambda part: part.write_text(json.dumps(figures, indent=2) + "\n"))


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
    detector.network.to(device)
    task = progress.task(name, len(source.records))
    batches = ((images.to(device), targets) for images, targets in val_loader(source, feed))
    found = predict_records(detector, batches, source, advance=lambda images: progress.advance(task, images))
    progress.finish(task)
    detector.network.cpu()
    return score(metric, source, found)


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
        run: run folder of a training.
        images: an image, or a folder that is searched for images.
        out: folder for predictions.json and the drawn images.
        threshold: lowest score that is drawn; the JSON has all.
        best: take the best checkpoint in place of the last.
        device: auto takes the accelerator where there is one; cpu does not.
    """
    paths = find_images(images)
    spec, detector, where = ModelSpec.load(run), load(run, best=best), pick_device(device)
    detector.network.to(where)
    out.mkdir(parents=True, exist_ok=True)
    transform = eval_transform(spec.resize)
    entries: list[dict[str, Any]] = []
    with Progress() as progress, torch.no_grad():
        task = progress.task("predict", len(paths))
        for path in paths:
            record = unlabelled(path)
            pixels, _ = transform(decode(record), {"boxes": record.boxes, "labels": record.labels})
            found = detector.predict(pixels[None].to(where))[0]
            found = Prediction(**{key: value.cpu() for key, value in found.items()})
            found = to_record_frame(found, record, (pixels.shape[-2], pixels.shape[-1]))
            entries += as_json(record, found, spec.classes)
            drawn = out / path.relative_to(images if images.is_dir() else images.parent).with_suffix(".png")
            drawn.parent.mkdir(parents=True, exist_ok=True)
            draw_detections(drawn, decode(record) / 255, found, spec.classes, threshold=threshold)
            progress.advance(task)
    write_atomic(out / "predictions.json", lambda part: part.write_text(json.dumps(entries, indent=1) + "\n"))
    print(f"{len(entries)} detections in {len(paths)} images: {out / 'predictions.json'} and drawn beside it")


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
    target = Path(Path(name).name + ".yaml")
    if target.exists():
        raise EyasError(f"{target} is here already; move it away first")
    write_atomic(target, lambda part: part.write_text(shipped[name].read_text()))
    print(f"{target}: its first lines say how to run it")


def shipped_recipes() -> dict[str, Path]:
    """Recipe name -> its file, sorted."""
    root = Path(str(resources.files("eyas"))) / "recipes"
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))}


def run_config(run: Path) -> dict[str, Any]:
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


def _needed(value: Any, message: str) -> Any:
    if value is None:
        raise EyasError(message)
    return value
