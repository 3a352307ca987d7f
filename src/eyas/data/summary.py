"""What ``eyas data PATH`` prints: the contents of a data set, how anchors fit it, and everything that was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eyas.data.formats.checks import without_objects
from eyas.data.formats.records import DataSource, Problem
from eyas.data.images import check_header, content_digest, image_bytes, read_pixels
from eyas.data.options import Resize
from eyas.tools.tables import listed
from eyas.types import EyasError, Record, Size

if TYPE_CHECKING:
    from eyas.ops.anchors import AnchorGrid

Floats = npt.NDArray[np.float32]

Grids = Callable[[Size], Sequence["AnchorGrid"]]
"""(height, width) of the network's input -> the anchor grids of all levels."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SIZES_SHOWN = 5
CHUNK = 4096
"""Number of boxes compared with a grid at once, which bounds the memory."""
FIT_RECORDS, FIT_SIZES = 1000, 4
"""Images, and input sizes among them, whose boxes `anchor_fit` compares: each size takes a pass of the network."""


def report(source: DataSource, *, resize: Resize | None = None, grids: Grids | None = None) -> str:
    """A plain text report of a split.

    Args:
        source: a split, as `eyas.data.read` returns it.
        resize: the network's input size; boxes are measured in its frame, or in the files' frame when None.
        grids: the detector's anchors for an input size; without them the report leaves anchors out.
    """
    resize = resize or Resize()
    frames = [resize.output_size((record.height, record.width)) for record in source.records]
    boxes = [_in_frame(record, frame) for record, frame in zip(source.records, frames, strict=True)]
    sections = [_head(source), _classes(source), _image_sizes(source.records), _box_sizes(np.concatenate(boxes))]
    if grids is not None:
        sections.append(_coverage(_by_class(source.classes, _by_frame(source.records, resize), grids)))
    warnings = [warning for warning in (*source.warnings, without_objects(source)) if warning is not None]
    sections += [f"warning      {warning}" for warning in warnings]
    sections.append(_problems(source, none="none" if warnings else "none: every record and box is used"))
    # File names need not be UTF-8, and a UTF-8 terminal refuses those that are not.
    return "\n\n".join(sections).encode("utf-8", "backslashreplace").decode()


def check_images(
    source: DataSource, advance: Callable[[], object] = lambda: None, *, decoded: bool = True
) -> tuple[Problem, ...]:
    """List the images that would stop a training: unreadable, of more than 8 bits, or not of the annotated size.

    Takes one pass over the data, and calls ``advance`` after each image. Without ``decoded`` only the headers are
    read, which misses images that are cut off or damaged. Add the result to ``source.problems`` to see it in the
    report.
    """
    check = read_pixels if decoded else check_header
    problems = []
    for record in source.records:
        try:
            check(record)
        except EyasError as error:
            problems.append(Problem(record.path, None, str(error).removeprefix(f"{record.path}: ")))
        advance()
    return tuple(problems)


def copies(sources: Sequence[DataSource]) -> list[str]:
    """A sentence for every two splits that have images of the same bytes, which makes a score too good.

    Only files of equal size are read.
    """
    by_size: dict[int, list[tuple[int, Record]]] = {}
    for index, source in enumerate(sources):
        for record in source.records:
            by_size.setdefault(image_bytes(record), []).append((index, record))
    same: dict[bytes, dict[int, Path]] = {}
    for files in by_size.values():
        if len({index for index, _ in files}) > 1:
            for index, record in files:
                same.setdefault(content_digest(record), {})[index] = record.path
    lines = []
    for first, second in combinations(range(len(sources)), 2):
        shared = [paths for paths in same.values() if first in paths and second in paths]
        if shared and sources[first].split != sources[second].split:
            names = f"splits {sources[first].split} and {sources[second].split}"
            example = f"such as {shared[0][first]} and {shared[0][second]}"
            lines.append(f"{names} share {len(shared)} images, {example}: a score on one is too good")
    return lines


def anchor_fit(source: DataSource, resize: Resize, grids: Grids) -> dict[str, Floats]:
    """Class name -> the best IoU of each of its objects with an anchor, at the network's input size.

    In a large data set some of the images are compared: `FIT_RECORDS` of them, spread evenly, in the `FIT_SIZES` input
    sizes that are most common among them.
    """
    by_frame = _by_frame(source.records[:: -(-len(source.records) // FIT_RECORDS) or 1], resize)
    common = sorted(by_frame.items(), key=lambda entry: -len(entry[1]))[:FIT_SIZES]
    return _by_class(source.classes, dict(common), grids)


def _by_frame(records: Sequence[Record], resize: Resize) -> dict[Size, list[Record]]:
    """The images by the input size that they are resized to."""
    found: dict[Size, list[Record]] = {}
    for record in records:
        found.setdefault(resize.output_size((record.height, record.width)), []).append(record)
    return found


def _by_class(classes: Sequence[str], by_frame: Mapping[Size, Sequence[Record]], grids: Grids) -> dict[str, Floats]:
    """Class name -> the best IoU of each of its objects with an anchor; empty without images."""
    best, labels = [], []
    for frame, records in by_frame.items():
        best.append(best_iou(np.concatenate([_in_frame(record, frame) for record in records]), grids(frame)))
        labels += [record.labels for record in records]
    if not labels:
        return {}
    found, label = np.concatenate(best), np.concatenate(labels)
    return {name: found[label == index] for index, name in enumerate(classes)}


def _in_frame(record: Record, frame: Size) -> Floats:
    return record.boxes * np.array([frame[1] / record.width, frame[0] / record.height] * 2, np.float32)


def best_iou(boxes: Floats, grids: Sequence[AnchorGrid]) -> Floats:
    """The largest IoU of each box with any anchor of any grid: (n, 4) xyxy to (n,).

    For one anchor shape the IoU rises with the overlap, and the overlap is separable, so the best is at the best
    column and the best row. Memory is O(boxes x (rows + columns)), never O(boxes x anchors).
    """
    best = np.zeros(len(boxes), np.float32)
    for start in range(0, len(boxes), CHUNK):
        part = slice(start, start + CHUNK)
        best[part] = np.max([_best_on_grid(boxes[part], grid) for grid in grids], axis=0)
    return best


def _best_on_grid(boxes: Floats, grid: AnchorGrid) -> Floats:
    cells: Floats = grid.cell_anchors.cpu().numpy().astype(np.float32)
    overlap = []
    for axis, low, high in ((1, 0, 2), (0, 1, 3)):
        origins = grid.origins(axis).cpu().numpy().astype(np.float32)
        start, end = cells[:, low, None] + origins, cells[:, high, None] + origins
        shared = np.minimum(boxes[:, high, None, None], end) - np.maximum(boxes[:, low, None, None], start)
        overlap.append(shared.clip(min=0).max(-1))
    common = overlap[0] * overlap[1]
    found: Floats = (common / (_area(boxes)[:, None] + _area(cells) - common)).max(-1)
    return found


def _area(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _head(source: DataSource) -> str:
    objects = sum(len(record.boxes) for record in source.records)
    empty = sum(not len(record.boxes) for record in source.records)
    regions = sum(len(record.ignore) for record in source.records)
    return (
        f"{source.root}: {source.format} format, split {source.split}\n"
        f"{len(source.records)} images ({empty} without objects), {objects} objects of {len(source.classes)} classes, "
        f"{regions} ignore regions"
    )


def _classes(source: DataSource) -> str:
    objects = Counter(label for record in source.records for label in record.labels.tolist())
    images = Counter(label for record in source.records for label in set(record.labels.tolist()))
    ignored = Counter(label for record in source.records for label in record.ignore_labels.tolist())
    width = max(len(name) for name in (*source.classes, "every class"))
    lines = [f"{'class':{width}}  objects   images  ignored"]
    for label, name in enumerate(source.classes):
        lines.append(f"{name:{width}} {objects[label]:8} {images[label]:8} {ignored[label]:8}")
    if ignored[-1]:
        lines.append(f"{'every class':{width}} {'':8} {'':8} {ignored[-1]:8}")
    return "\n".join(lines)


def _image_sizes(records: Sequence[Record]) -> str:
    sizes = Counter((record.width, record.height) for record in records)
    shown = [f"{width}x{height} ({count})" for (width, height), count in sizes.most_common()]
    return f"image sizes  {listed(shown, SIZES_SHOWN)}"


def _box_sizes(boxes: Floats) -> str:
    if not len(boxes):
        return "box sizes    no objects"
    side = np.sqrt(_area(boxes))
    ratio = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    small, large = int((side < 32).sum()), int((side >= 96).sum())
    return (
        f"box sizes    sqrt(area), pixels of the input: {_quantiles(side, '.1f')}\n"
        f"             from {side.min():.1f} to {side.max():.1f}\n"
        f"             small (< 32) {small}, medium {len(side) - small - large}, large (>= 96) {large}\n"
        f"             width / height: {_quantiles(ratio, '.2f')}"
    )


def _coverage(fit: Mapping[str, Floats]) -> str:
    best = np.concatenate([*fit.values(), np.zeros(0, np.float32)])
    if not len(best):
        return "anchors      no objects"
    by_class = ", ".join(f"{name} {np.median(own):.2f}" for name, own in fit.items() if len(own))
    shares = ", ".join(f">= {limit} {(best >= limit).mean(dtype=np.float32):.1%}" for limit in (0.4, 0.5, 0.7))
    return (
        f"anchors      best IoU of a box with an anchor: {_quantiles(best, '.2f')}\n"
        f"             {shares} of the boxes\n"
        f"             median by class: {by_class}"
    )


def _quantiles(values: Floats, form: str) -> str:
    ordered = np.sort(values)
    return ", ".join(f"{q:.0%} {ordered[round(q * (len(ordered) - 1))]:{form}}" for q in QUANTILES)


def _problems(source: DataSource, none: str) -> str:
    if not source.problems:
        return f"problems     {none}"
    head = f"problems     dropped, clipped or unreadable: {len(source.problems)}"
    return "\n".join([head, *(f"  {problem}" for problem in source.problems)])
