"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt``.

Coordinates in the devkit are 1-based and the corner pixels are inside the box, so the 0-based box of the same pixels is
``(xmin - 1, ymin - 1, xmax, ymax)``. A box with ``xmin == xmax`` or ``ymin == ymax`` would be one pixel thin by that
rule; such boxes come from stray clicks, so it counts as a box without area and is dropped. Objects marked
``difficult`` become ignore regions of their class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from eyas.data.formats import fields
from eyas.data.formats.records import Annotation, Box, DataSource, build_record, label_of
from eyas.data.images import find_image, image_size
from eyas.types import EyasError

LAYOUT = "Annotations/ with ImageSets/Main/{split}.txt (VOC)"

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

DEPTH = 64
"""The deepest nesting of elements; annotations have five. Python frees deeper trees by recursion."""


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``: class name, 0-based box, the ``difficult`` flag, and the line of its tag."""

    name: str
    box: Box
    difficult: bool
    line: int


VocFile = tuple[tuple[int, int] | None, list[VocObject]]
"""(width, height), or None where the file has none or says zero; the objects."""


def recognised(root: Path) -> bool:
    """Whether the folder has this layout."""
    return (root / "Annotations").is_dir() and (root / "ImageSets" / "Main").is_dir()


def parse(text: str, path: Path) -> VocFile:
    """Read one annotation file's text. Raises `EyasError` with file and line on broken XML, a bad or missing field."""
    root = _parse_xml(text, path)
    if root.tag != "annotation":
        # Otherwise its objects would be missed, and the image taken for one without objects.
        tag = f"<{fields.short(root.tag)}>"
        raise EyasError(f"{path}:{root.get('line')}: begins with {tag}, not <annotation>; repair it")
    for child in root:
        if child.tag != "object" and child.tag.strip("sS").lower() == "object":
            raise EyasError(f"{path}:{child.get('line')}: <{child.tag}> is not read; write <object>")
    width, height = (_number(root, f"size/{side}", path, 0.0) for side in ("width", "height"))
    element = root.find("size")
    line = (root if element is None else element).get("line")
    size = fields.stated_size(width, height, f"{path}:{line}: <size>")
    objects = []
    for element in root.findall("object"):
        xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax"))
        where = f"{path}:{element.get('line')}: this object"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise EyasError(f"{where} has no <name>; add it")
        name = fields.class_name(name, where)
        difficult = _number(element, "difficult", path, 0.0)
        if difficult not in (0, 1):
            raise EyasError(f"{where} has difficult {difficult:g}; write 0 or 1")
        box = (xmin - (xmin < xmax), ymin - (ymin < ymax), xmax, ymax)
        objects.append(VocObject(name, box, bool(difficult), int(element.get("line", 0))))
    return size, objects


def read_split(root: Path, split: str, classes: Sequence[str] | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    paths = fields.annotation_files([root / "ImageSets" / "Main"], split, root / "Annotations", ".xml")
    files = {path: parse(fields.read_text(path), path) for path in paths.values()}
    names = tuple(classes) if classes is not None else _class_names(root / "Annotations", files)
    records, problems = [], []
    for name, path in paths.items():
        image, (size, objects) = find_image(root / "JPEGImages", name), files[path]
        annotations = [
            Annotation(o.box, label_of(o.name, names, f"{path}:{o.line}"), o.line, o.difficult, name=o.name)
            for o in objects
        ]
        record, wrong = build_record(name, image, size or image_size(image), annotations, path)
        records.append(record)
        problems += wrong
    return DataSource("voc", root, split, names, tuple(records), tuple(problems))


def _class_names(folder: Path, files: Mapping[Path, VocFile]) -> tuple[str, ...]:
    """The 20 VOC classes if every name is among them, else the sorted names of all splits, so that splits agree."""
    others = [parse(fields.read_text(path), path) for path in set(folder.glob("*.xml")) - files.keys()]
    found = {o.name for _, objects in (*files.values(), *others) for o in objects}
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _parse_xml(text: str, path: Path) -> ElementTree.Element:
    """An element tree whose elements carry the attribute ``line``, which the standard parser does not keep."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")  # whatever the file declares: the text has been decoded
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        line = str(parser.CurrentLineNumber)
        if depth > DEPTH:
            raise EyasError(f"{path}:{line}: more than {DEPTH} elements inside each other; repair it")
        builder.start(tag, {**attributes, "line": line})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def declaration(*_: object) -> None:
        # Entities can expand without bound and name other files; without declarations there are none.
        raise EyasError(f"{path}:{parser.CurrentLineNumber}: DOCTYPE is not allowed in annotations; remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = declaration
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise EyasError(f"{path}:{error.lineno}: broken XML ({expat.ErrorString(error.code)}); repair it") from error
    return builder.close()


def _number(element: ElementTree.Element, key: str, path: Path, default: float | None = None) -> float:
    found = element.find(key)
    if found is None:
        if default is not None:
            return default
        raise EyasError(f"{path}:{element.get('line')}: <{element.tag}> has no {key}; add it")
    try:
        return fields.number((found.text or "").strip())
    except ValueError:
        raise EyasError(f"{path}:{found.get('line')}: {key} is {fields.shown(found.text)}, not a number") from None
