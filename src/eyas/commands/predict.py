"""`eyas predict`: detections in images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.args import Device, between
from eyas.data.options import Resize
from eyas.tools.output_paths import check_output_folder
from eyas.types import Detector, EyasError, Prediction, Record, size_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def predict(
    run: str,
    images: Path,
    out: Path = Path("predictions"),
    threshold: float = 0.3,
    best: bool = False,
    resize: Resize = Resize(),
    device: Device = "auto",
) -> None:
    """Detect objects in an image or a folder of images: boxes as JSON, and drawn as PNG.

    Args:
        run: run folder of a training; a file that export made; a folder of save_pretrained, or a hub id, of
            transformers; a checkpoint of rfdetr or libreyolo; or package.module:function, which is called and returns a
            detector.
        images: an image, or a folder that is searched for images.
        out: folder for predictions.json and the drawn images.
        threshold: lowest score that is drawn; the JSON has all.
        best: take the best checkpoint instead of the last.
        resize: size of the input; the run's own when left out.
        device: auto takes the accelerator where there is one; cpu does not.
    """
    between(0, 1, threshold=threshold)
    check_output_folder(out)
    from eyas.data.images import ImageError, decode
    from eyas.export.formats import open_detector
    from eyas.report.fonts import unwritable
    from eyas.report.plots import draw_detections, save_figure
    from eyas.runs.teachers import size_note
    from eyas.tools.devices import pick_device
    from eyas.tools.files import make_folder, write_json
    from eyas.tools.progress import Progress

    drawings = drawings_of(find_images(images), images, out)
    with Progress() as progress, progress.waiting(f"model     opening {run}"):
        own, detector = open_detector(run, best=best)
    where = pick_device(device)
    detector.network.to(where)
    entries: list[dict[str, Any]] = []
    broken: list[str] = []
    with Progress() as progress:
        if (note := size_note(str(run), resize)) is not None:
            progress.say(f"size      {note}")
        if strange := unwritable(detector.classes):
            progress.say(
                f"warning   no installed font can draw {', '.join(strange)}; install one, such as Noto Sans CJK"
            )
        task = progress.task("predict", len(drawings))
        for path, drawn in drawings.items():
            try:
                record = unlabelled(path)
                image = decode(record)
            except ImageError as error:
                broken.append(str(error))
                continue
            found = detect(detector, record, image, own if resize == Resize() else resize, where)
            entries += as_json(record, found, detector.classes)
            make_folder(drawn.parent, within=out)
            save_figure(drawn, draw_detections(image, found, detector.classes, threshold=threshold))
            progress.advance(task)
    seen = len(drawings) - len(broken)
    if seen:
        write_json(out / "predictions.json", entries)
        print(f"{len(entries)} detections in {seen} images: {out / 'predictions.json'} and drawn beside it")
    if broken:
        rest = f"; the other {seen} are in {out / 'predictions.json'}" if seen else ""
        raise EyasError(f"{len(broken)} of {len(drawings)} images cannot be used{rest}:\n  " + "\n  ".join(broken))


def detect(detector: Detector, record: Record, image: Tensor, resize: Resize, device: torch.device) -> Prediction:
    """The detections in a decoded image, on the CPU, in the frame of its file. The detector is on the device."""
    import torch

    from eyas.data import eval_transform, to_record_frame
    from eyas.data.dataset import ground_truth
    from eyas.evaluation.inputs import check_finite
    from eyas.evaluation.predict import detections, on_cpu

    pixels, _ = eval_transform(resize)(image, ground_truth(record))
    with torch.no_grad():
        (found,) = detections(detector, pixels[None].to(device), "the detector")
    found = to_record_frame(on_cpu(found), record, size_of(pixels))
    check_finite(record, found)
    return found


def unlabelled(path: Path) -> Record:
    """An image without annotations. Raises `eyas.data.images.ImageError` when it cannot be read."""
    import numpy as np

    from eyas.data.images import width_and_height

    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Record(path.stem, path, *width_and_height(path), no_boxes, no_labels, no_boxes, no_labels)


def find_images(path: Path) -> list[Path]:
    """The image itself, or every image below a folder, sorted. Raises EyasError when there is none."""
    from eyas.data.folders import files_below
    from eyas.data.formats.hub import is_hub
    from eyas.data.images import SUFFIXES, UNREAD

    if is_hub(path):
        found_by = f"eyas evaluate RUN --data {path} --boxes xywh --predictions FILE"
        raise EyasError(f"{path}: predict takes image files; the detections in a data set are written by {found_by}")
    if path.is_file():
        return [path]
    found = files_below(path, *SUFFIXES, *UNREAD)  # the latter are named as images that cannot be used
    if not found:
        raise EyasError(f"{path}: no image there; give an image or a folder with {', '.join(SUFFIXES)} files")
    return found


def drawings_of(paths: Sequence[Path], root: Path, out: Path) -> dict[Path, Path]:
    """Image -> the PNG of its detections. The folders below ``out`` mirror those below ``root``.

    An image keeps its suffix where its drawing could be taken for another one's: a.jpg.png, a.bmp.png. Raises EyasError
    when a drawing would overwrite an image.
    """
    base = root if root.is_dir() else root.parent
    count, inputs = Counter((*paths, *(path.with_suffix("") for path in paths))), set(map(os.path.realpath, paths))
    drawings = {}
    for path in paths:
        name = path.name if count[path.with_suffix("")] > 1 else path.stem
        drawn = drawings[path] = out / path.relative_to(base).with_name(f"{name}.png")
        if os.path.realpath(drawn) in inputs:
            raise EyasError(f"{drawn} is one of the images and would be overwritten; choose another --out")
    return drawings


def as_json(record: Record, found: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    """As in COCO's results format (bbox is x, y, width, height), with the names of file and class instead of ids."""
    entries = []
    columns = (found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist())
    for (left, top, right, bottom), label, score in zip(*columns, strict=True):
        bbox = [round(side, 2) for side in (left, top, right - left, bottom - top)]
        entries.append({"image": str(record.path), "category": classes[label], "bbox": bbox, "score": round(score, 5)})
    return entries
