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
    val_fraction: float = 0.2,
    val_seed: int = 0,
) -> None:
    """Print what a data set holds, what is odd about it, and every box or record that is dropped, with file and line.

    Args:
        path: folder of a data set, or the YAML file of a YOLO data set.
        split: the splits to read, each whole; when left out, train and val as a training sees them.
        format: coco, voc, kitti or yolo; recognised from the folder when left out.
        classes: class names in label order; taken from the data set when left out.
        images: decode every image, instead of reading its header, and list those that would stop a training.
        model: a trained detector, to compare its anchors with the boxes at its input size: run folder; folder of
            save_pretrained, or hub id, of transformers; or package.module:function, which is called and returns one.
        resize: size of that input; the run's own when left out.
        val_fraction: fraction of the training split that is held out where there is no validation split.
        val_seed: decides which images are held out.
    """
    from eyas.data import SplitOptions, check_images, copies, read, read_splits, report

    grids = None
    if model is not None:
        # Here, since without a model this command answers before torch would be imported.
        from eyas.distillation.outlines import anchor_grids
        from eyas.runs.opening import resolve_detector

        opened = resolve_detector(model)
        resize, grids = opened.resize if resize == Resize() else resize, partial(anchor_grids, opened.open())
    if split is None:
        options = SplitOptions(format=format, val_fraction=val_fraction, val_seed=val_seed)
        sources = list(read_splits(path, options, classes))
    else:
        sources = []
        for name in split:
            known = sources[0].classes if sources else classes  # the splits of one data set have the same classes
            sources.append(read(path, name, format=format, classes=known))
    for source in sources:
        from eyas.tools.progress import Progress

        with Progress() as progress:
            advance = partial(progress.advance, progress.task("images", len(source.records)))
            found = check_images(source, advance, decoded=images)
        source = replace(source, problems=(*source.problems, *found))
        print(report(source, resize=resize, grids=grids), end="\n\n")
    for line in copies(sources):
        print(f"warning      {line}")
