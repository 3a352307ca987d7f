"""Read a data set in the format that its folder shows. A new format is one module and one line in `FORMATS` or
`OPEN_FORMATS`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from eyas.data.formats import coco, fields, hub, imagefolder, kitti, voc, yolo
from eyas.data.formats.checks import BOXES, checked
from eyas.data.formats.classes import Choice, Classes, chosen, known, require_found
from eyas.data.formats.foreign import described
from eyas.data.formats.records import DataSource
from eyas.data.held_out import held_out
from eyas.data.options import BoxForm, SplitOptions
from eyas.types import EyasError


class Layout(Protocol):
    """What each module of `eyas.data.formats` knows of folders."""

    LAYOUT: str
    """Where a split's files are, for messages; contains ``{split}``."""

    def recognised(self, root: Path) -> bool:
        """Whether the folder has this layout."""

    def recognised_loosely(self, root: Path) -> bool:
        """Whether the folder has another layout of this format, which counts where no usual one is recognised."""

    def splits(self, root: Path) -> Mapping[str, object]:
        """Split -> where it is. Two names with equal values are one split."""


class Format(Layout, Protocol):
    """The interface of the modules of formats that say how a box is written."""

    def read_split(self, root: Path, split: str, classes: Classes | None) -> DataSource:
        """Read one split, each image by `formats.records.build_record`, which drops and clips boxes."""


class OpenFormat(Layout, Protocol):
    """The interface of the modules of formats that leave open how a box is written."""

    def read_split(self, root: Path, split: str, classes: Classes | None, boxes: BoxForm | None) -> DataSource:
        """Read one split as `Format` does. Raises `EyasError` that names both readings when ``boxes`` is None."""


FORMATS: dict[str, Format] = {"coco": coco, "voc": voc, "kitti": kitti, "yolo": yolo}
OPEN_FORMATS: dict[str, OpenFormat] = {"imagefolder": imagefolder, "hf": hub}
LAYOUTS: dict[str, Layout] = {**FORMATS, **OPEN_FORMATS}
MOST_FOLDERS = 200
"""Number of folders in which a data set is looked for, where there is none in the folder that was given."""
NOT_FOR_TRAINING = ("val", "valid", "validation", "test")
"""Splits that are trained on only where they are named."""


def read(
    root: Path,
    split: str,
    *,
    format: str | None = None,
    boxes: BoxForm | None = None,
    classes: Choice | Classes | None = None,
) -> DataSource:
    """Read one split of a data set. Images are not decoded; some formats need the header of each for its size.

    Args:
        root: the folder of the data set, the YAML file of a YOLO data set, the JSON file of one COCO split, or
            ``hf:ORG/NAME`` for one of the Hugging Face hub.
        split: "train", "val" or another name that the data set has.
        format: "coco", "voc", "kitti", "yolo", "imagefolder" or "hf"; recognised from the folder when None.
        boxes: "xywh" or "xyxy", how boxes are written, for the formats that leave it open (imagefolder, hf).
        classes: the class names in label order, or each with the classes of the data set that it takes together;
            taken from the data set when None. Objects of other classes are background, and a warning counts them.

    Raises:
        EyasError: the folder shows no format or several, the split is missing or empty, a file is missing or
            malformed, a class is unknown, or every box is bad. The message names the file and says what to do.
    """
    return checked(_opened(root, split, format, boxes, classes).read(split))


def read_splits(
    root: Path, options: SplitOptions, classes: Sequence[str] | None = None
) -> tuple[DataSource, DataSource]:
    """The images to train on and those to evaluate on, with the same classes.

    Those are what ``options`` chooses, or ``classes`` and no others, or the data set's own.

    A data set without a validation split has a part of its training split held out, the same for every command, run
    and machine, see `held_out`; ``warnings`` of the second source says so. Raises `EyasError` as `read` does.
    """
    data = _opened(root, options.train_split, options.format, options.boxes, _wanted(options, classes))
    name = data.training_split(options.train_split)
    if data.has(options.val_split):
        train = checked(replace(data.read(name, required=True), split=options.train_split))
        same = _wanted(options, train.classes)
        return train, _apart(train, checked(replace(data, classes=same).read(options.val_split)))
    if options.val_split != SplitOptions.val_split or options.val_fraction == 0:
        raise data.missing(
            options.val_split,
            "Name the one to evaluate on by --dataset.val_split, or leave that out and have a part of the training "
            "split held out by --dataset.val_fraction 0.2",
        )
    return held_out(data.read(name, required=True), name, options)


def _apart(train: DataSource, val: DataSource) -> DataSource:
    """The second source, with a warning where it has image files of the first."""
    folders = cache(os.path.realpath)  # each is resolved once, and not for each of its images

    def real(path: Path) -> str:
        return os.path.realpath(path) if path.is_symlink() else os.path.join(folders(path.parent), path.name)

    files = {real(record.path) for record in train.records}
    shared = sum(real(record.path) in files for record in val.records)
    warning = f"{shared} of the {len(val.records)} images of {val.split} are in {train.split}, too: a score is too good"
    return replace(val, warnings=(*val.warnings, warning)) if shared else val


def read_part(root: Path, split: str, options: SplitOptions, classes: Sequence[str] | None = None) -> DataSource:
    """One split as a training with ``options`` sees it: without what is held out of it, or that.

    Raises `EyasError` as `read` does.
    """
    data = _opened(root, split, options.format, options.boxes, _wanted(options, classes))
    roles = (options.train_split, options.val_split)
    role = fields.named_split(roles, split)
    if role is not None and not data.has(options.val_split):
        return read_splits(root, options, classes)[roles.index(role)]
    return checked(data.read(split))


def _wanted(options: SplitOptions, classes: Sequence[str] | None) -> Choice | Classes | None:
    if options.classes is not None:
        return options.classes
    return None if classes is None else known(classes)


@dataclass(frozen=True)
class _Folder:
    """A data set whose format is known, and its splits."""

    root: Path
    format: str
    splits: Mapping[str, object]
    boxes: BoxForm | None
    classes: Choice | Classes | None

    def has(self, split: str) -> bool:
        return fields.named_split(self.splits, split) is not None

    def read(self, split: str, *, required: bool = False) -> DataSource:
        """A split, not checked yet. Raises `EyasError` when it is not there, or ``required`` classes are not in it."""
        there = fields.named_split(self.splits, split)
        if there is None:
            raise self.missing(split, "Name one by --split, and in a training by --dataset.train_split or .val_split")
        choice = self.classes
        classes = choice if choice is None or isinstance(choice, Classes) else chosen(choice)
        if self.format in OPEN_FORMATS:
            source = OPEN_FORMATS[self.format].read_split(self.root, there, classes, self.boxes)
        else:
            source = FORMATS[self.format].read_split(self.root, there, classes)
        if classes is None:
            return replace(source, split=split)
        if required:
            require_found(classes, Counter(label for one in source.records for label in one.labels.tolist()), split)
        return replace(source, split=split, warnings=(*source.warnings, *classes.warning(split)))

    def training_split(self, wanted: str) -> str:
        """The split to train on: the one of that name, or the only one. Raises `EyasError` when it is not clear."""
        if self.has(wanted):
            return wanted
        first = next(iter(self.splits), "val")
        alone = all(place == self.splits[first] for place in self.splits.values())
        if alone and wanted == SplitOptions.train_split and first not in NOT_FOR_TRAINING:
            return first
        raise self.missing(
            wanted,
            "Name the one to train on by --dataset.train_split, and the one to evaluate on by --dataset.val_split "
            "(`eyas data`: --split)",
        )

    def missing(self, split: str, advice: str) -> EyasError:
        there = ", ".join(self.splits) or "none"
        absent = f"{self.root}: has no split {fields.shown(split)} ({self.format} format)"
        return EyasError(f"{absent}; the splits there are: {there}. {advice}.")


def _opened(
    root: Path, split: str, format: str | None, boxes: BoxForm | None, classes: Choice | Classes | None
) -> _Folder:
    root = Path(root)
    if root.exists():  # not the name of a hub: files may name their images by absolute paths
        root = root.absolute()
    if not root.is_dir() and not _recognised(root):
        raise EyasError(
            f"{root}: no such folder; give the folder of a data set, the YAML file of a YOLO data set, the JSON file "
            "of a COCO data set, or hf:ORG/NAME"
        )
    if classes is not None and not isinstance(classes, Classes):
        chosen(classes)  # which refuses what is no choice before a file is read
    name = _format(root, split, format)
    if boxes is not None and name in FORMATS:
        advice = "leave out --dataset.boxes (`eyas data`, `eyas evaluate`: --boxes)"
        raise EyasError(f"{root}: {name} files have {BOXES[name]}; {advice}")
    return _Folder(root, name, LAYOUTS[name].splits(root), boxes, classes)


def _format(root: Path, split: str, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise EyasError(f"format {wanted!r} is unknown; choose one of {', '.join(LAYOUTS)}")
        module = LAYOUTS[wanted]
        if not module.recognised(root) and not module.recognised_loosely(root):
            raise EyasError(f"{root}: has no {wanted} data; looked for {module.LAYOUT.format(split=split)}")
        return wanted
    found = _recognised(root)
    if len(found) > 1:
        choice = "choose one by --dataset.format (`eyas data`: --format)"
        raise EyasError(f"{root}: looks like {' and '.join(found)} data; {choice}")
    if not found:
        layouts = "; ".join(module.LAYOUT.format(split=split) for module in LAYOUTS.values())
        below = _below(root)
        found_here = f"Data sets are in {', '.join(map(str, below))}: give one of them" if below else described(root)
        advice = f". {found_here[0].upper()}{found_here[1:]}" if found_here else ""
        raise EyasError(f"{root}: no data set recognised; looked for {layouts}{advice}")
    return found[0]


def _below(root: Path) -> list[Path]:
    """The data sets in the folders of a folder, or else in theirs."""
    for pattern in ("[!._]*", "[!._]*/[!._]*"):
        found = [path for path in sorted(root.glob(pattern))[:MOST_FOLDERS] if path.is_dir() and _recognised(path)]
        if found:
            return found
    return []


def _recognised(root: Path) -> list[str]:
    usual = [name for name, module in LAYOUTS.items() if module.recognised(root)]
    if usual or not root.is_dir():
        return usual
    return [name for name, module in LAYOUTS.items() if module.recognised_loosely(root)]
