"""The KITTI reader on text and on folders made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eyas.data import SplitOptions, read, read_splits
from eyas.data.formats.kitti import KITTI_CLASSES, parse
from eyas.types import EyasError

FILE = Path("000001.txt")


def line(kind: str, box=(10, 20, 30, 40), truncated=0.0, occluded=0) -> str:
    return f"{kind} {truncated} {occluded} -1.5 {' '.join(map(str, box))} 1.5 1.6 3.9 1.0 2.0 30.0 0.1"


def make(root: Path, labels: dict[str, str]) -> Path:
    for folder in ("image_2", "label_2"):
        (root / folder).mkdir(parents=True)
    for name, text in labels.items():
        (root / "label_2" / f"{name}.txt").write_text(text)
        Image.new("RGB", (100, 50)).save(root / "image_2" / f"{name}.png")
    return root


def test_parse_follows_the_devkit():
    kinds = ["Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare"]
    found = parse("\n".join(line(kind) for kind in kinds), FILE, KITTI_CLASSES)
    assert [(a.name, a.label, a.ignore, a.line) for a in found] == [
        ("Car", 0, False, 1),
        ("Van", 0, True, 2),
        ("Pedestrian", 1, False, 4),
        ("Person_sitting", 1, True, 5),
        ("Cyclist", 2, False, 6),
        ("DontCare", -1, True, 9),
    ]
    assert found[0].box == (10, 20, 30, 40)


def test_a_neighbour_that_is_a_class_is_an_object():
    found = parse("\n".join(map(line, ("Van", "Person_sitting", "Truck"))), FILE, ["Van", "truck"])
    assert [(a.name, a.label, a.ignore) for a in found] == [("Van", 0, False), ("Truck", 1, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line("Car") + "\n" + line("Bus"), r"000001\.txt:2: unknown class 'Bus'; the known ones are car, .*Tram"),
        ("Car 0 0 1 2 3 4 5", r"000001\.txt:1: 8 columns"),
        (line("Car", box=("x", 1, 2, 3)), r"000001\.txt:1: .* is not a number"),
    ],
)
def test_parse_names_file_and_line(text, message):
    with pytest.raises(EyasError, match=message):
        parse(text, FILE, KITTI_CLASSES)


@pytest.mark.parametrize("inner", ["", "training"])
def test_read_both_layouts(tmp_path, inner):
    text = "\n".join([line("Car", truncated=0.3, occluded=2), line("DontCare"), line("Car", box=(30, 20, 10, 40))])
    make(tmp_path / inner, {"000001": text, "000002": ""})
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("000002\n000001\n")
    source = read(tmp_path, "train")
    assert (source.format, source.classes) == ("kitti", KITTI_CLASSES)
    assert [record.image_id for record in source.records] == ["000002", "000001"]
    record = source.records[1]
    assert (record.width, record.height) == (100, 50)
    assert record.boxes.tolist() == [[10, 20, 30, 40]] and record.labels.tolist() == [0]
    assert record.attributes["truncated"].tolist() == pytest.approx([0.3])
    assert record.attributes["occluded"].tolist() == [2]
    assert record.ignore_labels.tolist() == [-1]
    assert [(p.path.name, p.line) for p in source.problems] == [("000001.txt", 3)]


def test_missing_parts_are_named(tmp_path):
    make(tmp_path, {"000001": line("Car")})
    with pytest.raises(EyasError, match=r"has no split 'train' .* the splits there are: all"):
        read(tmp_path, "train")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("000001\n000007\n")
    with pytest.raises(EyasError, match=r"000007\.txt: no such file"):
        read(tmp_path, "train")


def test_classes_that_differ_in_case_alone_are_one(tmp_path):
    root = make(tmp_path, {"1": line("Car")})
    with pytest.raises(EyasError, match="two classes are called car, whose case KITTI ignores"):
        read(root, "all", classes=["Car", "car"])
    assert read(root, "all", classes={"vehicle": ["Car", "car"]}).records[0].labels.tolist() == [0]


def test_classes_that_are_not_chosen_are_counted_and_a_misspelt_one_is_refused(tmp_path):
    """KITTI's own types, too: by the default classes they are background without a word."""
    root = make(tmp_path / "d", {"1": "\n".join(map(line, ("Car", "Pedestrian", "Truck", "Van")))})
    assert not read(root, "all").warnings
    (warning,) = read(root, "all", classes=["car"]).warnings
    assert "Pedestrian (1), Truck (1)" in warning, "Van is Car's neighbour"
    with pytest.raises(EyasError, match=r"no object of class pedestrain in split .*, which has others: Pedestrian"):
        read_splits(root, SplitOptions(train_split="all", val_split="all", classes=["car", "pedestrain"]))
