"""Hugging Face's image folder: ``metadata.jsonl``, a line for each image with its file's name and its objects.

``{"file_name": "0001.png", "objects": {"bbox": [[32, 7, 30, 14]], "categories": [1]}}``. The lists may also stand in
the line itself. File names are relative to the folder of ``metadata.jsonl``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas.data.folders import Folders
from eyas.data.formats import fields
from eyas.data.formats.classes import Classes
from eyas.data.formats.objects import (
    Columns,
    annotations_of,
    as_lists,
    boxes_of,
    class_name,
    find_columns,
    which_form,
    without_names,
    written_classes,
)
from eyas.data.formats.places import SPLITS
from eyas.data.formats.records import DataSource, build_record
from eyas.data.images import images_below, width_and_height
from eyas.data.options import BoxForm
from eyas.types import EyasError

LAYOUT = "metadata.jsonl or {split}/metadata.jsonl, with file_name and boxes (Hugging Face image folder)"
NAME = "metadata.jsonl"
HEAD = 65536
"""Bytes of the first line, at most."""


@dataclass(frozen=True)
class Line:
    """One image: its file, as it is written, its objects by list, and where it stands."""

    file_name: str
    lists: Mapping[str, Sequence[Any]]
    where: str


def recognised(root: Path) -> bool:
    """This format has no layout that goes before the others': a folder of YOLO may have such a file too."""
    return False


def recognised_loosely(root: Path) -> bool:
    """Whether there is a ``metadata.jsonl``, here or in the folders of splits, whose first line has boxes."""
    return any(_has_boxes(path) for path in _files(root))


def splits(root: Path) -> dict[str, tuple[Path, str]]:
    """Split -> its file, and the folder in it that a split's images are in; "all" where nothing names one."""
    files = list(_files(root))
    if files != [root / NAME]:
        return {path.parent.name.lower(): (path, "") for path in files}
    lines = list(_lines(root / NAME))
    first = {Path(line.file_name).parts[0] for line in lines if len(Path(line.file_name).parts) > 1}
    names = sorted(first, key=lambda name: SPLITS.index(name.lower()) if name.lower() in SPLITS else len(SPLITS))
    whole = not first or any(name.lower() not in SPLITS for name in names)
    whole = whole or any(len(Path(line.file_name).parts) == 1 for line in lines)
    return {"all": (root / NAME, "")} if whole else {name.lower(): (root / NAME, name) for name in names}


def read_split(root: Path, split: str, classes: Classes | None, boxes: BoxForm | None) -> DataSource:
    """Read one split, whose boxes are written as ``boxes``; `eyas.data.read` documents arguments and errors."""
    place, folders = splits(root)[split], Folders()
    path, below = place
    lines = [line for line in _lines(path) if not below or Path(line.file_name).parts[0] == below]
    columns = _columns(lines, path)
    if boxes is None:
        sizes = ((box, line) for line in lines for box in boxes_of(line.lists, columns, line.where))
        raise which_form(((box, width_and_height(_image(root, path, line, folders))) for box, line in sizes), str(path))
    learned = classes or _classes(root, columns)

    def label(kind: object, where: str) -> int | None:
        return learned.label(class_name(kind, where), where)

    records, problems = [], []
    for line in lines:
        image = _image(root, path, line, folders)
        found = annotations_of(line.lists, columns, boxes, label, line.where)
        record, wrong = build_record(line.file_name, image, width_and_height(image), found, path)
        records.append(record)
        problems += wrong
    warnings = without_names(learned.names, split) if classes is None else ()
    listed = {os.path.realpath(record.path) for record in records}
    left = [one for one in images_below(path.parent / below) if os.path.realpath(one) not in listed]
    if left:
        text = f"split {split}: {len(left)} images have no line in {path} and are left out, such as {left[0]}"
        warnings = (*warnings, f"{text}; write one with empty lists for an image that shows none")
    return DataSource("imagefolder", root, split, learned.names, tuple(records), tuple(problems), warnings)


def _files(root: Path) -> Iterator[Path]:
    folders = Folders()
    for folder in (root, *(root / name for name in SPLITS), *(root / "data" / name for name in SPLITS)):
        found = folders.find(folder / NAME)
        if found is not None and found.is_file():
            yield found
            if folder == root:
                return


def _has_boxes(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.readline(HEAD)
    try:
        entry = json.loads(head)
        lists = as_lists(entry.get("objects", entry), "") if isinstance(entry, dict) else {}
        return "file_name" in entry and find_columns(lists, "") is not None
    except (ValueError, RecursionError):
        return b'"file_name"' in head and b"box" in head  # a very long line; or broken: reading it says where
    except EyasError:
        return True


def _lines(path: Path) -> Iterator[Line]:
    names = set()
    for number, text in enumerate(fields.lines_of(fields.read_text(path, fields.COCO_LIMIT)), start=1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EyasError(f"{where}: broken JSON ({error}); write the line again") from error
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise EyasError(f"{where}: has no file_name; write the name of an image, relative to {path.parent}")
        if name in names:
            raise EyasError(f"{where}: {fields.short(name)} has a line before; make them one")
        names.add(name)
        yield Line(name, as_lists(entry.get("objects", entry), where), where)


def _columns(lines: Sequence[Line], path: Path) -> Columns:
    """The lists of boxes and classes: the same in every line that has any."""
    names = dict.fromkeys(name for line in lines for name in line.lists)
    columns = find_columns(names, str(path))
    if columns is None:
        raise EyasError(f"{path}: no line has boxes; write objects: {{bbox: [...], category: [...]}}")
    return columns


def _classes(root: Path, columns: Columns) -> Classes:
    """The classes of all splits, so that they agree."""
    files = dict.fromkeys(path for path, _ in splits(root).values())
    kinds = (kind for path in files for line in _lines(path) for kind in line.lists.get(columns.classes) or ())
    return written_classes(kinds, str(root))


def _image(root: Path, path: Path, line: Line, folders: Folders) -> Path:
    written = fields.inside(root, path.parent / line.file_name, line.where)
    found = folders.find(written)
    if found is None or not os.path.isfile(found):
        missing = f"{line.where}: {fields.short(line.file_name)} is not in {path.parent}"
        raise EyasError(f"{missing}; restore it, or remove its line")
    return found
