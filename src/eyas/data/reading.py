"""Read a data set in the format that its folder shows. A new format is one module and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from eyas.data.formats import coco, kitti, voc, yolo
from eyas.data.formats.records import DataSource, checked
from eyas.types import EyasError


class Format(Protocol):
    """The interface of each module of `eyas.data.formats`."""

    LAYOUT: str
    """Where a split's files are, for messages; contains ``{split}``."""

    def recognised(self, root: Path) -> bool:
        """Whether the folder has this layout."""

    def read_split(self, root: Path, split: str, classes: Sequence[str] | None) -> DataSource:
        """Read one split, each image by `formats.records.build_record`, which drops and clips boxes."""


FORMATS: dict[str, Format] = {"coco": coco, "voc": voc, "kitti": kitti, "yolo": yolo}


def read(root: Path, split: str, *, format: str | None = None, classes: Sequence[str] | None = None) -> DataSource:
    """Read one split of a data set. Images are not decoded; some formats need the header of each for its size.

    Args:
        root: the folder of the data set.
        split: "train", "val" or another name that the data set has.
        format: "coco", "voc", "kitti" or "yolo"; recognised from the folder when None.
        classes: the class names in label order; taken from the data set when None.

    Raises:
        EyasError: the folder shows no format or several, the split is missing or empty, a file is missing or
            malformed, a class is unknown, or every box is bad. The message names the file and says what to do.
    """
    root = Path(root)
    if not root.is_dir():
        raise EyasError(f"{root}: no such folder; give the folder of a data set")
    if classes is not None and (not classes or len(set(classes)) != len(classes)):
        raise EyasError(f"the classes must be distinct and at least one, got: {', '.join(classes) or 'none'}")
    return checked(FORMATS[_format(root, split, format)].read_split(root, split, classes))


def _format(root: Path, split: str, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in FORMATS:
            raise EyasError(f"format {wanted!r} is unknown; choose one of {', '.join(FORMATS)}")
        if not FORMATS[wanted].recognised(root):
            raise EyasError(f"{root}: has no {wanted} data; looked for {FORMATS[wanted].LAYOUT.format(split=split)}")
        return wanted
    found = [name for name, module in FORMATS.items() if module.recognised(root)]
    if len(found) > 1:
        raise EyasError(f"{root}: looks like {' and '.join(found)} data; choose with the format option")
    if not found:
        layouts = "; ".join(module.LAYOUT.format(split=split) for module in FORMATS.values())
        raise EyasError(f"{root}: no data set recognised; looked for {layouts}")
    return found[0]
