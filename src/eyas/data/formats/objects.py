"""The objects of an image as Hugging Face data sets have them: lists of boxes and classes, side by side.

``{"bbox": [[32, 7, 30, 14]], "category": [1]}``, or a list of such entries with one box each. The names of the lists
vary. Whether a box is ``x, y, width, height`` or ``x1, y1, x2, y2`` is in no file: the user says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
from eyas.data.formats.records import Annotation, Box
from eyas.data.options import BOX_FORMS, BoxForm
from eyas.types import EyasError

BOX_NAMES = ("bbox", "bboxes", "boxes", "box")
CLASS_NAMES = ("category", "categories", "category_id", "label", "labels", "class", "classes", "class_id")
CROWD_NAMES = ("iscrowd", "is_crowd")
GIVE_BOXES = "--dataset.boxes (`eyas data`, `eyas evaluate`: --boxes; from Python: boxes=)"
FIRST = 100
"""Number of boxes that are tried in both readings, where none is chosen."""
SLACK = 1.0
"""Pixels by which a box that fits its image may leave it."""

WidthHeight = tuple[int, int]
"""(width, height) in pixels."""


class Columns(NamedTuple):
    """The names of the lists."""

    boxes: str
    classes: str
    crowd: str | None
    area: str | None


def find_columns(names: Iterable[str], where: str) -> Columns | None:
    """The lists among columns of these names; None where there are no boxes.

    Raises `EyasError` that begins with ``where``: boxes without classes, or several columns that could be either.
    """
    there = list(names)
    boxes, classes = ([name for name in there if name.lower() in usual] for usual in (BOX_NAMES, CLASS_NAMES))
    if not boxes:
        return None
    for found, kind in ((boxes, "boxes"), (classes, "classes")):
        if len(found) > 1:
            raise EyasError(f"{where}: {' and '.join(found)} could both be the {kind}; rename or remove one of them")
    if not classes:
        listed = ", ".join(CLASS_NAMES)
        raise EyasError(f"{where}: has {boxes[0]} and no classes; name the column of the classes one of {listed}")
    crowd = next((name for name in there if name.lower() in CROWD_NAMES), None)
    return Columns(boxes[0], classes[0], crowd, next((name for name in there if name.lower() == "area"), None))


def as_lists(objects: Any, where: str) -> Mapping[str, Sequence[Any]]:
    """The objects of an image as one list for each name. Raises `EyasError` where they are neither form."""
    if objects is None:
        return {}
    if isinstance(objects, list) and all(isinstance(entry, Mapping) for entry in objects):
        names = dict.fromkeys(name for entry in objects for name in entry)
        return {name: [entry.get(name) for entry in objects] for name in names}
    if isinstance(objects, Mapping):
        return {str(name): values for name, values in objects.items() if isinstance(values, list)}
    raise EyasError(f"{where} has the objects {fields.shown(objects)}; write lists of boxes and classes")


def boxes_of(lists: Mapping[str, Sequence[Any]], columns: Columns, where: str) -> list[Box]:
    """The four numbers of each box, as they are written."""
    found = []
    for box in lists.get(columns.boxes) or ():
        if not isinstance(box, list) or len(box) != 4:
            raise EyasError(f"{where} has the box {fields.shown(box)}; write four numbers of pixels")
        one, two, three, four = (fields.real(value, f"{where} has a box with") for value in box)
        found.append((one, two, three, four))
    return found


def annotations_of(
    lists: Mapping[str, Sequence[Any]],
    columns: Columns,
    form: BoxForm,
    label: Callable[[object, str], int | None],
    where: str,
) -> list[Annotation]:
    """The annotations of one image, not checked yet.

    Args:
        lists: from `as_lists`.
        columns: from `find_columns`.
        form: how its boxes are written.
        label: the label of a class as it is written; None where it is left out.
        where: names the image in messages.

    Raises:
        EyasError: lists of different lengths, or a value that is not a number.
    """
    boxes, kinds = boxes_of(lists, columns, where), lists.get(columns.classes) or ()
    if len(kinds) != len(boxes):
        raise EyasError(f"{where} has {len(boxes)} boxes and {len(kinds)} classes; write one class for each box")
    crowd, areas = (list(lists.get(name or "") or ()) for name in (columns.crowd, columns.area))
    found = []
    for index, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
        if (number := label(kind, where)) is None:
            continue
        x1, y1, x2, y2 = corners = as_corners(box, form)
        flag, stated = (values[index] if index < len(values) else None for values in (crowd, areas))
        ignore = flag is not None and fields.flag(flag, f"{where} has {columns.crowd}")
        area = (x2 - x1) * (y2 - y1) if stated is None else fields.area(stated, f"{where} has the area")
        name = f"box {index + 1}"
        found.append(Annotation(corners, number, None, ignore, {} if ignore else {"area": area}, name))
    return found


def as_corners(box: Box, form: BoxForm) -> Box:
    """A box as x1, y1, x2, y2."""
    x, y, third, fourth = box
    return (x, y, x + third, y + fourth) if form == "xywh" else box


def which_form(samples: Iterable[tuple[Box, WidthHeight]], where: str) -> EyasError:
    """The error where the user has not said how boxes are written: both readings, and how many boxes fit each."""
    first = [sample for sample, _ in zip(samples, range(FIRST), strict=False)]
    if not first:
        return EyasError(f"{where}: no file says how boxes are written; give xywh or xyxy by {GIVE_BOXES}")
    fit = {form: sum(_fits(as_corners(box, form), size) for box, size in first) for form in BOX_FORMS}
    written = "[{:g}, {:g}, {:g}, {:g}]".format(*first[0][0])
    return EyasError(
        f"{where}: no file says whether a box such as {written} is x, y, width, height ({fit['xywh']} of the first "
        f"{len(first)} are inside their images then) or x1, y1, x2, y2 ({fit['xyxy']} are); give xywh or xyxy by "
        f"{GIVE_BOXES}"
    )


def _fits(box: Box, size: WidthHeight) -> bool:
    (x1, y1, x2, y2), (width, height) = box, size
    return -SLACK <= x1 < x2 <= width + SLACK and -SLACK <= y1 < y2 <= height + SLACK


def written_classes(kinds: Iterable[object], where: str) -> Classes:
    """The classes of a data set that has no list of them: its numbers or names, sorted."""
    found = {class_name(kind, where) for kind in kinds}
    numbers = all(name.removeprefix("-").isdecimal() for name in found)
    return known(sorted(found, key=int) if numbers else sorted(found))


def class_name(kind: object, where: str) -> str:
    """The name of a class as it is written: a text, or a whole number, which is its own name."""
    number = None if isinstance(kind, str) else fields.whole(kind)
    return fields.class_name(kind if number is None else number, where)


def without_names(classes: Sequence[str], split: str) -> tuple[str, ...]:
    """A warning where the classes are numbers."""
    if not classes or not all(name.removeprefix("-").isdecimal() for name in classes):
        return ()
    example = ", ".join(f'{word}: ["{name}"]' for word, name in zip(("bolt", "nut"), classes, strict=False))
    text = f"split {split}: the classes have no names, only numbers, which are taken for them"
    return (f"{text}; {fields.CLASSES_OPTION} '{{{example}}}' gives them names",)
