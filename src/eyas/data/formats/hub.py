"""Data sets of Hugging Face's ``datasets``: ``hf:ORG/NAME`` of the hub, a folder of Parquet, or one of `save_to_disk`.

``datasets`` keeps a data set as Arrow files, which are mapped into memory: an image is read when it is needed, in
whichever process needs it, and every image can be reached at once. So such a data set is shuffled, divided among
processes and resumed as a folder of images is. ``datasets`` is an extra, ``pip install eyas[datasets]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
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
from eyas.data.images import width_and_height
from eyas.data.options import BoxForm
from eyas.types import EyasError

LAYOUT = "*.parquet, or a folder of save_to_disk (Hugging Face datasets)"
HUB = "hf:"
SPEC = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")
SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))
"""Files of `save_to_disk`: of several splits, and of one."""
PLACES = ("data", "default")
"""Folders of Parquet files beside those of splits."""
ALONE = "train"
"""The split of a data set that was saved without splits, as ``datasets`` calls it."""


@dataclass(frozen=True)
class EmbeddedImage:
    """Opens one image of a data set, without a copy; it travels to other processes as the names of the data's files.

    Attributes:
        images: the ``datasets.Dataset`` of the column of images alone, as Arrow.
        index: of the row.
    """

    images: Any
    index: int

    def __call__(self) -> BinaryIO:
        import pyarrow

        reader: BinaryIO = pyarrow.BufferReader(_cell(self.images, self.index)["bytes"].as_buffer())
        return reader


@dataclass(frozen=True)
class Table:
    """One split, and where things are in it.

    Attributes:
        rows: the ``datasets.Dataset`` of the columns of the objects.
        images: that of the column of images alone, as Arrow.
        objects: the column of the objects; None where their lists are columns themselves.
        columns: the lists of boxes and classes.
        names: the class names in label order, where the data set has them.
    """

    rows: Any
    images: Any
    objects: str | None
    columns: Columns
    names: tuple[str, ...] | None

    def lists(self, index: int, where: str) -> Mapping[str, Sequence[Any]]:
        """The objects of an image as one list for each name."""
        row = self.rows[index]
        return as_lists(row if self.objects is None else row[self.objects], where)


def recognised(root: Path) -> bool:
    """Whether the name is one of the hub's, or the folder is one of `save_to_disk`."""
    return is_hub(root) or _is_saved(root)


def recognised_loosely(root: Path) -> bool:
    """Whether there are Parquet files, here or in the folder of a split or of a configuration."""
    places = (root, *(root / name for name in (*PLACES, *SPLITS)))
    return any(True for place in places for _ in place.glob("*.parquet"))


def is_hub(root: Path) -> bool:
    """Whether a data set is given by its name on the hub."""
    return str(root).startswith(HUB)


def splits(root: Path) -> dict[str, object]:
    """Split -> its ``datasets.Dataset``. Raises `EyasError` where ``datasets`` is missing or cannot load it."""
    return dict(_loaded(root))


def read_split(root: Path, split: str, classes: Classes | None, boxes: BoxForm | None) -> DataSource:
    """Read one split, whose boxes are written as ``boxes``; `eyas.data.read` documents arguments and errors."""
    there = _loaded(root)
    return source_of(there[split], root, split, boxes, classes, others=[one for one in there.values()])


def source_of(
    dataset: Any,
    root: Path,
    split: str,
    boxes: BoxForm | None,
    classes: Classes | None = None,
    others: Sequence[Any] = (),
) -> DataSource:
    """A ``datasets.Dataset`` as a source; only the headers of its images are read here.

    Args:
        dataset: with one column of images, and one of objects or columns of boxes and classes.
        root: what messages call the data set.
        split: what messages call this part of it.
        boxes: how its boxes are written.
        classes: the classes to learn; the data set's own when None.
        others: all its splits, whose classes agree where it has no list of them.

    Raises:
        EyasError: ``boxes`` is None; no such columns, or several; a box or class that is none; an image that cannot be
            read.
    """
    name = f"{root}: split {split}"
    table = _table(dataset, name)
    if boxes is None:
        raise which_form(_boxes(table, root, split), name)
    names = None if table.names is None else known(table.names)
    learned = classes or names or written_classes(_kinds([table, *(_table(one, name) for one in others)]), name)

    def label(kind: object, where: str) -> int | None:
        return learned.label(_name(kind, table.names, where), where)

    records, problems = [], []
    for index in range(len(table.rows)):
        path, content = _image(table, index, root, split)
        where = f"{name}, image {index}"
        found = annotations_of(table.lists(index, where), table.columns, boxes, label, where)
        record, wrong = build_record(str(index), path, width_and_height(path, content), found, path, content)
        records.append(record)
        problems += wrong
    warnings = without_names(learned.names, split) if classes is None and names is None else ()
    return DataSource("hf", root, split, learned.names, tuple(records), tuple(problems), warnings)


def _is_saved(root: Path) -> bool:
    return any(all((root / name).is_file() for name in names) for names in SAVED)


def datasets_package() -> Any:
    """The ``datasets`` package. Raises `EyasError` when it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise EyasError("this needs Hugging Face's datasets: pip install 'eyas[datasets]'") from error
    return datasets


def _loaded(root: Path) -> Mapping[str, Any]:
    """Split -> its data set, with the files that ``datasets`` keeps of it."""
    package = datasets_package()
    spec = SPEC.fullmatch(str(root))
    if is_hub(root) and spec is None:
        raise EyasError(f"{root}: write hf:ORG/NAME, hf:ORG/NAME:CONFIG or hf:ORG/NAME@REVISION")
    try:
        if spec is not None:
            # With the whole address, a folder of this name here is not taken for it.
            found = package.load_dataset(f"hf://datasets/{spec['name']}", spec["config"], revision=spec["revision"])
        elif _is_saved(root):
            found = package.load_from_disk(os.path.abspath(root))
        else:  # the whole path, as a folder called parquet is also the name of a reader
            found = package.load_dataset(os.path.abspath(root))
    except Exception as error:  # of the hub, the network, the file system and the formats: as many kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EyasError(f"{root}: datasets cannot load it ({said:.400})") from error
    return found if isinstance(found, package.DatasetDict) else {ALONE: found}


def _table(dataset: Any, name: str) -> Table:
    package = datasets_package()
    features = dataset.features
    images = [column for column, feature in features.items() if isinstance(feature, package.Image)]
    if len(images) != 1:
        there = (
            f"{', '.join(images)} are columns of images" if images else f"no column is of images ({_named(features)})"
        )
        advice = "keep one by dataset.select_columns" if images else "make one by dataset.cast_column(..., Image())"
        raise EyasError(f"{name}: {there}; {advice}, and give that to eyas.from_hf")
    nested = {column: _inside(feature) for column, feature in features.items()}
    places: list[tuple[str | None, Mapping[str, Any]]] = [*nested.items(), (None, features)]
    found = [
        (column, columns, inside)
        for column, inside in places
        if (columns := find_columns(inside, name if column is None else f"{name}, column {column}")) is not None
    ]
    if len(found) != 1:
        several = " and ".join(column or columns.boxes for column, columns, _ in found)
        there = f"{several} have boxes" if found else f"no column has boxes ({_named(features)})"
        raise EyasError(
            f"{name}: {there}; give eyas.from_hf a data set with one such column, objects: {{bbox, category}}"
        )
    column, columns, inside = found[0]
    wanted = [column] if column is not None else [one for one in columns if one is not None]
    rows = dataset.with_format(None).select_columns(wanted)
    classes = _class_names(inside[columns.classes], package)
    return Table(rows, dataset.with_format("arrow").select_columns(images), column, columns, classes)


def _inside(feature: Any) -> Mapping[str, Any]:
    """The lists inside a column of objects, in either form: a mapping of lists, or a list of mappings."""
    if isinstance(feature, Mapping):
        return feature
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    return inner if isinstance(inner, Mapping) else {}


def _class_names(feature: Any, package: Any) -> tuple[str, ...] | None:
    """The names of a column of classes, where it has them."""
    while not isinstance(feature, package.ClassLabel):
        inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
        if inner is None:
            return None
        feature = inner
    return tuple(fields.class_name(name, "the data set") for name in feature.names)


def _name(kind: object, names: Sequence[str] | None, where: str) -> str:
    """The name of a class as a row has it: its number, where the data set has a list of names."""
    if names is None:
        return class_name(kind, where)
    number = fields.whole(kind)
    if number is None or not 0 <= number < len(names):
        raise EyasError(
            f"{where} has the class {fields.shown(kind)}; the data set has the classes 0 to {len(names) - 1}"
        )
    return names[number]


def _kinds(tables: Sequence[Table]) -> Iterator[object]:
    for table in tables:
        for index in range(len(table.rows)):
            yield from table.lists(index, "the data set").get(table.columns.classes) or ()


def _boxes(table: Table, root: Path, split: str) -> Iterator[tuple[Any, tuple[int, int]]]:
    for index in range(len(table.rows)):
        where = f"{root}: split {split}, image {index}"
        for box in boxes_of(table.lists(index, where), table.columns, where):
            yield box, width_and_height(*_image(table, index, root, split))


def _image(table: Table, index: int, root: Path, split: str) -> tuple[Path, EmbeddedImage | None]:
    """The file of an image; or a name for messages, and what opens the image."""
    cell = _cell(table.images, index)
    if not cell.is_valid:
        raise EyasError(f"{root}: split {split}, image {index} is null; remove its row")
    name = Path(cell["path"].as_py() or "")
    if cell["bytes"].is_valid:
        return root / split / str(index) / name.name, EmbeddedImage(table.images, index)
    return name, None


def _cell(images: Any, index: int) -> Any:
    """The image of a row as Arrow has it: a struct of bytes and path."""
    return images[index].column(0)[0]


def _named(features: Mapping[str, Any]) -> str:
    return ", ".join(features) or "it has no columns"
