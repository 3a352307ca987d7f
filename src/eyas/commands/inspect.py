"""`eyas inspect`: whether a teacher's features support the case for imitating them near objects only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eyas.args import BatchArgs, SplitArgs, at_least, between
from eyas.data.options import Resize
from eyas.tools.output_paths import check_output_files, check_output_folder
from eyas.types import Detector

if TYPE_CHECKING:
    from eyas.data import DataSource
    from eyas.evaluation.variance import LevelInspection
    from eyas.ops.near_objects import AssignmentRule


def inspect(
    run: str,
    subset: SplitArgs = SplitArgs(),
    psi: float = 0.5,
    assignment: Literal["global", "per_level", "by_size"] = "global",
    classes: list[str] | dict[str, list[str]] | None = None,
    images: int | None = None,
    out: Path | None = None,
    resize: Resize = Resize(),
    feed: BatchArgs = BatchArgs(),
    json_file: Path | None = None,
) -> None:
    """Measure how a teacher's features vary near objects and far from them: the case for the mask, on your data.

    Args:
        run: run folder of a trained detector; a folder of save_pretrained, or a hub id, of transformers; a
            checkpoint of rfdetr or libreyolo; or package.module:function, which is called and returns one.
        psi: share of an object's best IoU that an anchor must exceed for its cell to be near, in [0, 1].
        assignment: with several levels, those over which the best IoU is taken.
        classes: class names of the data in label order, or each name with the classes that it takes together; those of
            the run, or the data set's own, when left out.
        images: how many of the split's first images to use; all when left out.
        out: folder for inspection.json, variance.png and near_masks.png; RUN/inspection when left out.
        resize: size of the input; the run's own when left out.
        json_file: also write inspection.json's content there.
    """
    between(0, 1, psi=psi)
    at_least(1, images=1 if images is None else images)
    check_output_files(json_file)
    if out is not None:
        check_output_folder(out)
    from eyas.evaluation.predict import batches_on
    from eyas.evaluation.variance import inspect_features, table, to_json, verdict
    from eyas.runs.opening import resolve_detector
    from eyas.runs.results import data_for
    from eyas.runs.teachers import size_note, unlike_training
    from eyas.tools.devices import pick_device
    from eyas.tools.files import make_folder, write_json
    from eyas.tools.progress import Progress

    opened = resolve_detector(run)
    with Progress() as progress, progress.waiting(f"model     opening {run}"):
        detector = opened.open()
    folder = opened.folder or Path(run)
    source = data_for(run, detector.classes, classes, data=subset.data, split=subset.split, boxes=subset.boxes)
    source = replace(source, records=source.records[:images])
    if note := size_note(run, resize):
        print(f"size     {note}")
    resize = opened.resize if resize == Resize() else resize
    for remark in (*source.warnings, unlike_training(run, resize, source.records)):
        if remark is not None:
            print(f"warning  {remark}")
    name = folder.resolve().name
    above = folder if folder.is_dir() else Path()
    make_folder(out or above / "inspection", within=None if out else above)
    out = out or above / "inspection"
    where = pick_device(feed.device)
    detector.network.to(where)
    with Progress() as progress:
        task = progress.task("inspect", len(source.records))
        batches, advance = batches_on(where, source, feed.dataset(resize)), partial(progress.advance, task)
        levels = inspect_features(detector, batches, psi=psi, assignment=assignment, advance=advance)
    data_name, count = source.root.resolve().name, len(source.records)
    about = {"run": name, "data": data_name, "split": source.split, "images": count}
    content = to_json(levels, **about, psi=psi, assignment=assignment)
    write_json(out / "inspection.json", content)
    if json_file is not None:
        write_json(json_file, content)
    title = f"{name} on {data_name}, {count} images of {source.split}: variance of each channel"
    draw(out, detector, levels, source, resize, title=title, psi=psi, assignment=assignment)
    print(f"{name} on {count} images of {source.split}, near by psi {psi:g}, {assignment}\n{table(levels)}\n")
    print(f"{verdict(levels)}\n{out}/: inspection.json, variance.png, near_masks.png")
    print(f"next: eyas distill --teacher {run} --method fgfi --method.psi {psi:g} imitates these cells;")
    print("      --method box_mask, fitnets and vanilla are alternatives, which eyas compare trains side by side")


def draw(
    out: Path,
    detector: Detector,
    levels: Sequence[LevelInspection],
    source: DataSource,
    resize: Resize,
    *,
    title: str,
    psi: float,
    assignment: AssignmentRule,
) -> None:
    """Write variance.png and near_masks.png, of an image with objects, into a folder."""
    from eyas.data.dataset import first_with_objects
    from eyas.report.plots import channel_variances, save_figure
    from eyas.report.sections.masks import draw_masks

    panels = {f"{level.name}, stride {level.level.stride}": level.variances() for level in levels}
    save_figure(out / "variance.png", channel_variances(panels, title=title))
    masks = draw_masks(detector, *first_with_objects(source, resize), psi=psi, assignment=assignment)
    save_figure(out / "near_masks.png", masks)
