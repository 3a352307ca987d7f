"""The VOC reader on text, on a folder made here, and on real data where it is at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.data import DataSource, difficult_as_objects, read
from eyas.data.formats.classes import known
from eyas.data.formats.voc import VOC_CLASSES, parse
from eyas.training.setup import Setup
from eyas.types import EyasError

FILE = Path("a.xml")


def xml(*objects: str, size: str = "<size><width>20</width><height>10</height></size>") -> str:
    return "\n".join(["<annotation>", size, *objects, "</annotation>"])


def thing(name: str, box: tuple[float, float, float, float], more: str = "") -> str:
    keys = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in keys)
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def make(root: Path, files: dict[str, str], train: str, val: str = "") -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, text in files.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (20, 10)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets/Main/train.txt").write_text(train)
    (root / "ImageSets/Main/val.txt").write_text(val)
    return root


def test_parse_moves_the_1_based_inclusive_box_to_0_based_edges():
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    file = parse(
        xml(thing("dog", (1, 1, 20, 10), part), thing("cat", (3, 4, 5.5, 6), "<difficult>1</difficult>")), FILE
    )
    assert file.size == (20, 10)
    dog, cat = file.objects
    assert (dog.name, dog.box, dog.difficult, dog.line) == ("dog", (0, 0, 20, 10), False, 3)
    assert (cat.name, cat.box, cat.difficult, cat.line) == ("cat", (2, 3, 5.5, 6), True, 4)


def test_parse_without_a_size_leaves_it_to_the_image():
    assert parse(xml(size=""), FILE).size is None
    assert parse(xml(size="<size><width>0</width><height>0</height></size>"), FILE).size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a\.xml:3: broken XML"),
        (xml("<object><name>dog</name></object>"), r"a\.xml:3: <object> has no bndbox/xmin"),
        (xml(thing("dog", ("x", 1, 2, 3))), r"a\.xml:3: bndbox/xmin is 'x', not a number"),
        (xml(thing(" ", (1, 1, 2, 3))), r"a\.xml:3: this object has no <name>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation/>', r"a\.xml:1: DOCTYPE is not allowed"),
    ],
)
def test_parse_names_file_and_line(text, message):
    with pytest.raises(EyasError, match=message):
        parse(text, FILE)


def test_read_keeps_the_good_and_lists_the_bad(tmp_path):
    bad = [thing("rbc", (5, 5, 5, 5)), thing("rbc", (9, 2, 3, 4)), thing("rbc", (2, 2, 30, 8))]
    hard = thing("wbc", (2, 2, 4, 4), "<difficult>1</difficult>")
    files = {"a": xml(thing("wbc", (1, 1, 10, 10)), hard, *bad), "b": xml(thing("platelet", (1, 1, 3, 3))), "c": xml()}
    source = read(make(tmp_path / "d", files, "a\nc\n", "b\n"), "train")
    assert (source.format, source.split, source.classes) == ("voc", "train", ("platelet", "rbc", "wbc"))
    assert read(tmp_path / "d", "val").classes == source.classes
    first, second = source.records
    assert (first.image_id, first.width, first.height) == ("a", 20, 10)
    assert first.boxes.tolist() == [[0, 0, 10, 10], [1, 1, 20, 8]] and first.labels.tolist() == [2, 1]
    assert first.ignore.tolist() == [[1, 1, 4, 4]] and first.ignore_labels.tolist() == [2]
    assert second.boxes.shape == (0, 4)
    assert [(p.path.name, p.line) for p in source.problems] == [("a.xml", 5), ("a.xml", 6), ("a.xml", 7)]
    assert [p.message.split("; ")[-1] for p in source.problems] == ["dropped", "dropped", "clipped"]


def test_names_among_the_20_give_the_20(tmp_path):
    files = {"a": xml(thing("dog", (1, 1, 10, 10)))}
    source = read(make(tmp_path / "d", files, "a"), "train")
    assert source.classes == VOC_CLASSES and source.records[0].labels.tolist() == [11]


def test_a_class_that_is_not_known(tmp_path):
    make(tmp_path / "d", {"a": xml(thing("dog", (1, 1, 10, 10)), thing("emu", (1, 1, 10, 10)))}, "a")
    with pytest.raises(EyasError, match=r"a\.xml:4: unknown class 'emu'; the classes are cat, dog"):
        read(tmp_path / "d", "train", classes=known(["cat", "dog"]))


def test_missing_parts_are_named(tmp_path):
    root = make(tmp_path / "d", {"a": xml(thing("dog", (1, 1, 10, 10)))}, "a\nb\n")
    with pytest.raises(EyasError, match=r"b\.xml: no such file"):
        read(root, "train")
    (root / "Annotations/b.xml").write_text(xml())
    with pytest.raises(EyasError, match="no image of this name"):
        read(root, "train")
    with pytest.raises(EyasError, match="the split val has no images"):
        read(root, "val")
    with pytest.raises(EyasError, match=r"has no split 'test' .* the splits there are: train, val"):
        read(root, "test")


def test_a_second_annotation_of_an_image_is_refused(tmp_path):
    """Such as a file manager's copy, which finds the image by the name inside: each would hide the other's objects."""
    root = make(tmp_path, {"a": xml(thing("cat", (1, 1, 5, 5)))}, "")
    shutil.rmtree(root / "ImageSets")
    copy = (root / "Annotations/a.xml").read_text().replace("<size>", "<filename>a.jpg</filename><size>")
    (root / "Annotations/a (1).xml").write_text(copy)
    with pytest.raises(EyasError, match=r"the entries .*a.* of the split all have the same file, .*a\.jpg"):
        read(root, "all")


def test_a_split_whose_boxes_are_all_bad(tmp_path):
    make(tmp_path / "d", {"a": xml(thing("dog", (5, 5, 5, 5)))}, "a")
    with pytest.raises(EyasError, match=r"every box of the split train was dropped; the first: .*a\.xml:3"):
        read(tmp_path / "d", "train")


@pytest.mark.skipif("EYAS_BCCD" not in os.environ, reason="EYAS_BCCD does not name the blood cell data set")
def test_blood_cells():
    root = Path(os.environ["EYAS_BCCD"])
    train, val = read(root, "train"), read(root, "val")
    assert train.classes == val.classes == ("Platelets", "RBC", "WBC")
    assert (len(train.records), len(val.records)) == (205, 87)
    found = [(p.path.stem, p.line) for source in (train, val) for p in source.problems]
    assert found == [("BloodImage_00343", 50), ("BloodImage_00338", 158)]


@pytest.mark.parametrize("text", ["<html><body>404</body></html>", f"<annotations>{xml()}</annotations>"])
def test_another_document_is_no_image_without_objects(text):
    with pytest.raises(EyasError, match=r"a\.xml:1: begins with <\w+>, not <annotation>"):
        parse(text, FILE)


@pytest.mark.parametrize("tag", ["Object", "objects", "OBJECT"])
def test_objects_under_another_name_are_not_passed_over(tag):
    text = f"<annotation>\n<{tag}><name>cat</name></{tag}></annotation>"
    with pytest.raises(EyasError, match=rf"a\.xml:2: <{tag}> is not read; write <object>"):
        parse(text, FILE)


def test_difficult_objects_are_objects_in_training_where_that_is_asked_for(tmp_path):
    """As in the training of faster-rcnn.pytorch; the devkit leaves them out of the evaluation."""
    text = xml(thing("dog", (1, 1, 20, 10)), thing("cat", (3, 4, 6, 6), "<difficult>1</difficult>"))
    make(tmp_path, {"a": text, "b": text}, "a\n", "b\n")
    for difficult, labels in ((False, [11]), (True, [11, 7])):
        with Setup(tmp_path, DataArgs(difficult=difficult), OptimArgs(), RunArgs(device="cpu")) as setup:
            (train,), (val,) = setup.train.records, setup.val.records
            assert train.labels.tolist() == labels and len(train.boxes) == len(labels)
            assert train.ignore_labels.tolist() == ([] if difficult else [7]) and len(train.ignore) == 2 - len(labels)
            assert val.labels.tolist() == [11] and val.ignore_labels.tolist() == [7]
    with pytest.raises(EyasError, match="only VOC marks objects as difficult, and this is coco"):
        difficult_as_objects(DataSource("coco", tmp_path, "train", ("cat",), ()))
