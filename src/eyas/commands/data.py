"""`eyas data`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path


def data(
    path: Path,
    split: list[str] | None = None,
    format: str | None = None,
    classes: list[str] | None = None,
    images: bool = False,
    model: Path | None = None,
) -> None:
    """Print what a data set holds, and every box or record that is dropped, with file and line.

    Args:
        path: folder of a data set.
        split: the splits to read; train and val when left out.
        format: coco, voc, kitti or yolo; recognised from the folder when left out.
        classes: class names in label order; taken from the data set when left out.
        images: also decode every image, and list those that would stop a training.
        model: run folder of a detector, to compare its anchors with the boxes at its input size.
    """
    from eyas.data import check_images, read, report

    resize = grids = None
    if model is not None:
        # Here, since without a model this command answers before torch would be imported.
        from eyas.evaluation.predict import anchor_grids
        from eyas.runs.checkpoint import ModelSpec
        from eyas.runs.opening import load

        resize, grids = ModelSpec.load(model).resize, partial(anchor_grids, load(model))
    for name in split or ["train", "val"]:
        source = read(path, name, format=format, classes=classes)
        if images:
            from eyas.tools.progress import Progress

            with Progress() as progress:
                found = check_images(source, partial(progress.advance, progress.task("decode", len(source.records))))
            source = replace(source, problems=(*source.problems, *found))
        print(report(source, resize=resize, grids=grids), end="\n\n")
