"""`eyas data`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.data.options import Augmentation, BoxForm, Resize
from eyas.tools.output_paths import check_output_folder

if TYPE_CHECKING:
    from eyas.data import DataSource


def data(
    path: Path,
    split: list[str] | None = None,
    format: str | None = None,
    boxes: BoxForm | None = None,
    classes: list[str] | dict[str, list[str]] | None = None,
    images: bool = False,
    model: str | None = None,
    resize: Resize = Resize(),
    val_fraction: float = 0.2,
    val_seed: int = 0,
    draw: Path | None = None,
    augment: Augmentation = Augmentation(),
) -> None:
    """Print what a data set holds, what is odd about it, and every box or record that is dropped, with file and line.

    Args:
        path: folder of a data set, the YAML file of a YOLO data set, the JSON file of one COCO split, or hf:ORG/NAME.
        split: the splits to read, each whole; when left out, train and val as a training sees them.
        format: coco, voc, kitti, yolo, imagefolder or hf; recognised from the folder when left out.
        boxes: how the boxes of a Hugging Face data set are written, which no file of it says: xywh (x, y, width,
            height) or xyxy (x1, y1, x2, y2), in pixels.
        classes: class names in label order, or each name with the classes that it takes together, as in
            "{vehicle: [car, van], person: [person]}"; taken from the data set when left out. Objects of other classes
            are background.
        images: decode every image, instead of reading its header, and list those that would stop a training.
        model: a trained detector, to compare its anchors with the boxes at its input size: run folder; folder of
            save_pretrained, or hub id, of transformers; checkpoint of rfdetr or libreyolo; or package.module:function,
            which is called and returns one.
        resize: size of that input; the run's own when left out.
        val_fraction: fraction of the training split that is held out where there is no validation split.
        val_seed: decides which images are held out.
        draw: folder for SPLIT.png: some images with their labels, as they are and as a training sees them.
        augment: random changes to training images, for draw.
    """
    if draw is not None:
        check_output_folder(draw)
    from eyas.data import SplitOptions, check_images, copies, read, read_splits, report
    from eyas.data.formats.classes import known

    grids = None
    if model is not None:
        # Here, since without a model this command answers before torch would be imported.
        from eyas.distillation.outlines import anchor_grids
        from eyas.runs.opening import resolve_detector

        opened = resolve_detector(model)
        resize, grids = opened.resize if resize == Resize() else resize, partial(anchor_grids, opened.open())
    if split is None:
        options = SplitOptions(format, boxes, val_fraction=val_fraction, val_seed=val_seed, classes=classes)
        sources = list(read_splits(path, options))
    else:
        sources = []
        for name in split:
            # The splits of one data set have the same classes.
            own = known(sources[0].classes) if sources and classes is None else classes
            sources.append(read(path, name, format=format, boxes=boxes, classes=own))
    for source in sources:
        from eyas.tools.progress import Progress

        with Progress() as progress:
            advance = partial(progress.advance, progress.task("images", len(source.records)))
            found = check_images(source, advance, decoded=images)
        source = replace(source, problems=(*source.problems, *found))
        print(report(source, resize=resize, grids=grids), end="\n\n")
    for line in copies(sources):
        print(f"warning      {line}")
    if draw is not None:
        draw_splits(sources, draw, resize, augment)


def draw_splits(sources: Sequence[DataSource], out: Path, resize: Resize, augment: Augmentation) -> None:
    """Draw images of each split with their labels; those of the first, which is trained on, also augmented."""
    from eyas.data import eval_transform, train_transform
    from eyas.report.labels import labelled
    from eyas.report.plots import save_figure
    from eyas.tools.files import make_folder

    make_folder(out)
    for index, source in enumerate(sources):
        transform = eval_transform(resize) if index else train_transform(resize, augment)
        path = out / f"{source.split}.png"
        save_figure(path, labelled(source, transform, samples=1 if index else 3))
        print(f"drawn        {path}")
