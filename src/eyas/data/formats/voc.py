"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt``; or XML beside the images.

Coordinates in the devkit are 1-based and the corner pixels are inside the box, so the 0-based box of the same pixels is
``(xmin - 1, ymin - 1, xmax, ymax)``. A box with ``xmin == xmax`` or ``ymin == ymax`` would be one pixel thin by that
rule; such boxes come from stray clicks, so it counts as a box without area and is dropped. Objects marked
``difficult`` become ignore regions of their class; `difficult_as_objects` makes them objects, for training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from eyas.data.folders import Folders, files_below, files_in
from eyas.data.formats import fields
from eyas.data.formats.classes import Classes, known
from eyas.data.formats.places import SPLITS
from eyas.data.formats.records import Annotation, Box, DataSource, Problem, build_record, without_annotation
from eyas.data.images import SUFFIXES, find_image, is_image, width_and_height
from eyas.types import EyasError, Record

LAYOUT = "Annotations/ with ImageSets/Main/{split}.txt, or XML files beside the images (VOC)"
ANNOTATIONS, IMAGES = ("Annotations", "labels", "xmls"), ("JPEGImages", "images", "data")
"""Names of the folders, in any case."""
FLAG = re.compile(r"\S\s+(-1|0|1)\s*$")
"""The end of a line in a list of one class: whether the image has it."""

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


@dataclass(frozen=True)
class VocFile:
    """One annotation file: (width, height), or None where it has none or says zero; the objects; the image's name."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    file_name: str


def recognised(root: Path) -> bool:
    """Whether the folder has the layout of the devkit."""
    return (root / "Annotations").is_dir() and (root / "ImageSets" / "Main").is_dir()


def recognised_loosely(root: Path) -> bool:
    """Whether there are XML files in ``Annotations``, or beside images here or in the folder of a split."""
    return bool(splits(root))


def splits(root: Path) -> dict[str, Path]:
    """Split -> its list in ``ImageSets``, or else the folder of its XML files; "all" where that is no split's."""
    folders = Folders()
    lists = _lists(root / "ImageSets" / "Main", folders)
    if lists:
        return lists
    annotations = [folder for folder in _folders(root, ANNOTATIONS, folders) if files_below(folder, ".xml")]
    if annotations:
        beside = {name: path for name, path in _lists(root, folders).items() if name.lower() in SPLITS}
        of_folders = {name: annotations[0] / name for name in SPLITS if files_in(annotations[0] / name, ".xml")}
        return _lists(root / "ImageSets", folders) or beside or of_folders or {"all": annotations[0]}
    parts = {name: part for name in SPLITS for part in _part(folders.find(root / name), folders)}
    return parts or ({"all": root} if _beside_images(root) else {})


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
        if len(element.findall("bndbox")) > 1:
            raise EyasError(f"{where} has two <bndbox>; write an <object> for each")
        difficult = _number(element, "difficult", path, 0.0)
        if difficult not in (0, 1):
            raise EyasError(f"{where} has difficult {difficult:g}; write 0 or 1")
        box = (xmin - (xmin < xmax), ymin - (ymin < ymax), xmax, ymax)
        objects.append(VocObject(name, box, bool(difficult), int(element.get("line", 0))))
    name = (root.findtext("filename") or "").strip().replace("\\", "/")
    return VocFile(size, tuple(objects), name)


def read_split(root: Path, split: str, classes: Classes | None) -> DataSource:
    """Read one split; `eyas.data.read` documents the arguments and errors."""
    there, folders = splits(root), Folders()
    listed = there[split].is_file()
    folder = (*_folders(root, ANNOTATIONS, folders), root)[0]
    paths = fields.annotation_files(there[split], folder, ".xml", folders) if listed else _files_in(there[split])
    files = {path: parse(fields.read_text(path), path) for path in paths.values()}
    everything = [folder] if listed else there.values()
    classes = classes or known(_class_names(everything, files))
    records: list[Record] = []
    problems: list[Problem] = []
    for name, path in paths.items():
        file = files[path]
        try:
            image = _image_of(root, name, path, file.file_name, folders)
        except EyasError as error:
            if listed:
                raise
            problems.append(Problem(path, None, f"has no image ({error}); dropped"))
            continue
        annotations = [
            Annotation(o.box, label, o.line, o.difficult, name=o.name)
            for o in file.objects
            if (label := classes.label(o.name, f"{path}:{o.line}")) is not None
        ]
        record, wrong = build_record(name, image, file.size or width_and_height(image), annotations, path)
        records.append(record)
        problems += wrong
    warnings = () if listed else without_annotation(records, split, there[split], "one without <object>")
    return DataSource("voc", root, split, classes.names, tuple(records), tuple(problems), tuple(warnings))


def _lists(folder: Path, folders: Folders) -> dict[str, Path]:
    """Split -> its list, without the lists of one class."""
    found = {path.stem: path for path in files_in(folders.find(folder) or folder, ".txt")}
    return {name: path for name, path in found.items() if not _is_of_one_class(path, found)}


def _is_of_one_class(path: Path, lists: Mapping[str, Path]) -> bool:
    """Whether a list is of the images of one class in a split, as ``bolt_train.txt``: names and flags."""
    if not any(path.stem.endswith(f"_{split}") for split in lists):
        return False
    lines = fields.lines_of(fields.read_text(path, fields.LIST_LIMIT))
    return bool(lines) and all(FLAG.search(line) for line in lines if line.strip())


def _folders(root: Path, names: Sequence[str], folders: Folders) -> list[Path]:
    found = [folders.find(root / name) for name in names]
    return [path for path in found if path is not None and path.is_dir()]


def _part(folder: Path | None, folders: Folders) -> list[Path]:
    """Where the XML files of a split's folder are: in its own folder of annotations, or beside its images."""
    if folder is None:
        return []
    inner = [path for path in _folders(folder, ANNOTATIONS, folders) if files_in(path, ".xml")]
    return inner[:1] or ([folder] if _beside_images(folder) else [])


def _beside_images(folder: Path) -> bool:
    images = {path.stem for path in files_in(folder, *SUFFIXES)}
    return any(path.stem in images for path in files_in(folder, ".xml"))


def _files_in(folder: Path) -> dict[str, Path]:
    of_all = folder.name.lower() in map(str.lower, ANNOTATIONS)
    found = files_below(folder, ".xml") if of_all else files_in(folder, ".xml")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def _image_of(root: Path, name: str, path: Path, file_name: str, listed: Folders) -> Path:
    """The image of an annotation file: of its name, or of the name in it, in the folder of images or beside it."""
    folders = [folder for base in (root, path.parent.parent) for folder in _folders(base, IMAGES, listed)]
    folders = [place for folder in folders for place in (folder, folder / path.parent.name) if place.is_dir()]
    for folder in (*folders, path.parent):
        with suppress(EyasError):
            return find_image(folder, name if folder in folders else path.stem, listed)
    if file_name:
        for folder in (*folders, path.parent):
            image = listed.find(folder / file_name)
            if image is not None and is_image(image) and os.path.isfile(image):
                return fields.inside(root, image, f"{path}: <filename>")
    return find_image((folders or [path.parent])[0], name, listed)  # which says what is missing


def _class_names(folders: Iterable[Path], files: Mapping[Path, VocFile]) -> tuple[str, ...]:
    """The 20 VOC classes if every name is among them, else the sorted names of all splits, so that splits agree."""
    there = {path for folder in folders for path in _files_in(folder).values()} - files.keys()
    others = [parse(fields.read_text(path), path) for path in there]
    found = {o.name for file in (*files.values(), *others) for o in file.objects}
    return VOC_CLASSES if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _parse_xml(text: str, path: Path) -> ElementTree.Element:
    """An element tree whose elements carry the attribute ``line``, which the standard parser does not keep."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")  # whatever the file declares: the text has been decoded
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        tag = tag.rpartition(":")[2]  # a namespace's prefix
        line = str(parser.CurrentLineNumber)
        if depth > DEPTH:
            raise EyasError(f"{path}:{line}: more than {DEPTH} elements inside each other; repair it")
        builder.start(tag, {**attributes, "line": line})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(":")[2])

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
    text = "" if found is None else (found.text or "").strip()
    if found is None or not text:  # an empty element counts as left out
        if default is not None:
            return default
        raise EyasError(f"{path}:{element.get('line')}: <{element.tag}> has no {key}; add it")
    try:
        return fields.number(fields.FLAGS.get(text.lower(), text) if key == "difficult" else text)
    except ValueError:
        raise EyasError(f"{path}:{found.get('line')}: {key} is {fields.shown(found.text)}, not a number") from None
