"""`eyas data`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from eyas.data.options import Resize


def data(
    path: Path,
    split: list[str] | None = None,
    format: str | None = None,
    classes: list[str] | None = None,
    images: bool = False,
    model: str | None = None,
    resize: Resize = Resize(),
) -> None:
    """Print what a data set holds, and every box or record that is dropped, with file and line.

    Args:
        path: folder of a data set.
        split: the splits to read; train and val when left out.
        format: coco, voc, kitti or yolo; recognised from the folder when left out.
        classes: class names in label order; taken from the data set when left out.
        images: also decode every image, and list those that would stop a training.
        model: a trained detector, to compare its anchors with the boxes at its input size: run folder; folder of
            save_pretrained, or hub id, of transformers; or package.module:function, which is called and returns one.
        resize: size of that input; the run's own when left out.
    """
    from eyas.data import check_images, read, report

    grids = None
    if model is not None:
        # Here, since without a model this command answers before torch would be imported.
        from eyas.evaluation.predict import anchor_grids
        from eyas.runs.opening import resolve_detector

        opened = resolve_detector(model)
        resize, grids = opened.resize if resize == Resize() else resize, partial(anchor_grids, opened.open())
    for name in split or ["train", "val"]:
        source = read(path, name, format=format, classes=classes)
        if images:
            from eyas.tools.progress import Progress

            with Progress() as progress:
                found = check_images(source, partial(progress.advance, progress.task("decode", len(source.records))))
            source = replace(source, problems=(*source.problems, *found))
        print(report(source, resize=resize, grids=grids), end="\n\n")
