"""The YOLO reader on text and on folders made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eyas.data import read
from eyas.data.formats.classes import known
from eyas.data.formats.yolo_config import parse_config
from eyas.data.formats.yolo_labels import label_paths, parse
from eyas.data.identity import source_digest
from eyas.types import EyasError

FILE = Path("a.txt")
NAMES = ("cat", "dog")


def test_parse_gives_pixels():
    found = parse("1 0.5 0.25 0.5 0.5\n\n0 0 0 1 0.5 0.5 1\n", FILE, NAMES)
    assert [(one.box((200, 100)), one.label, one.line) for one in found] == [
        ((50, 0, 150, 50), 1, 1),
        ((0, 0, 200, 100), 0, 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 .5 .5 .5 .5\n2 .5 .5 .5 .5",
            r"a\.txt:2: unknown class 2; the labels count from 0, and the names are 2, 0 to 1: cat, dog",
        ),
        ("-1 .5 .5 .5 .5", "unknown class -1"),
        ("0.5 .5 .5 .5 .5", r"unknown class 0\.5"),
        ("nan .5 .5 .5 .5", "unknown class nan"),
        ("0 .5 .5 .5", r"a\.txt:1: 4 columns"),
        ("0 .5 .5 .5 .5 .9", r"a\.txt:1: 6 columns"),
        ("dog .5 .5 .5 .5", r"a\.txt:1: .* is not a number"),
    ],
)
def test_parse_names_file_and_line(text, message):
    with pytest.raises(EyasError, match=message):
        parse(text, FILE, NAMES)


def test_config_names_as_list_or_mapping(tmp_path):
    path = tmp_path / "data.yaml"
    listed = parse_config("names: [cat, dog]\nnc: 2\ntrain: images/train\nval: [a, b]\n", path)
    mapped = parse_config("names: {1: dog, 0: cat}\ntrain: x\n", path)
    assert listed.names == mapped.names == NAMES
    assert listed.splits == {"train": ("images/train",), "val": ("a", "b")} and listed.base == tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: x", "has no names"),
        ("- a", "has no names"),
        ("names: {0: cat, 2: dog}", "without a gap"),
        ("names: [cat]\nnc: 2", "nc: is 2, but names: has 1"),
        ("names: [cat", "not readable as YAML"),
    ],
)
def test_config_errors_name_the_file(text, message):
    with pytest.raises(EyasError, match=rf"data\.yaml: .*{message}"):
        parse_config(text, Path("data.yaml"))


def make(root: Path, config: str, labels: dict[str, str | None], folder: str = "images/train") -> Path:
    (root / folder).mkdir(parents=True)
    (root / "data.yaml").write_text(config)
    for name, text in labels.items():
        image = root / folder / f"{name}.png"
        Image.new("RGB", (200, 100)).save(image)
        if text is not None:
            label = root / label_paths(image.relative_to(root))[0]
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    return root


def test_read_a_folder(tmp_path):
    labels = {"b": "1 0.5 0.25 0.5 0.5\n0 0.5 0.5 0 0.5\n", "a": None, "c": ""}
    root = make(tmp_path / "d", "names: [cat, dog]\ntrain: images/train\nval: images/train\n", labels)
    (root / "labels/train/stray.txt").write_text("0 .5 .5 .5 .5")
    source = read(root, "train")
    assert (source.format, source.classes) == ("yolo", NAMES)
    assert [r.image_id for r in source.records] == ["images/train/a.png", "images/train/b.png", "images/train/c.png"]
    assert [len(r.boxes) for r in source.records] == [0, 1, 0]
    assert source.records[1].boxes.tolist() == [[50, 0, 150, 50]] and source.records[1].labels.tolist() == [1]
    assert [(p.path.name, p.line) for p in source.problems] == [("stray.txt", None), ("b.txt", 2)]


def test_classes_given_by_the_user_set_the_order_and_known_ones_refuse_others(tmp_path):
    root = make(tmp_path / "d", "names: [cat, dog]\ntrain: images/train\n", {"a": "1 .5 .5 .5 .5\n0 .5 .5 .5 .5"})
    assert read(root, "train", classes=["dog", "cat"]).records[0].labels.tolist() == [0, 1]
    with pytest.raises(EyasError, match=r"a\.txt:2: unknown class 'cat'; the classes are dog"):
        read(root, "train", classes=known(["dog"]))


def test_read_a_list_and_an_exported_layout(tmp_path):
    config = "names: [cat]\ntrain: ../train/images\nvalid: list.txt\n"
    root = make(tmp_path / "d", config, {"a": "0 .5 .5 .5 .5", "b": ""}, folder="train/images")
    (root / "list.txt").write_text("./train/images/b.png\n")
    assert [r.image_id for r in read(root, "train").records] == ["train/images/a.png", "train/images/b.png"]
    assert [r.image_id for r in read(root, "val").records] == ["train/images/b.png"]
    (root / "list.txt").write_text("train/images/b.png\ntrain/images/z.png\n")
    with pytest.raises(EyasError, match=r"list\.txt:2: .*z\.png does not exist"):
        read(root, "val")


def test_missing_parts_are_named(tmp_path):
    root = make(tmp_path / "d", "names: [cat]\ntrain: images/train\nval: elsewhere\n", {})
    with pytest.raises(EyasError, match="the split train has no images"):
        read(root, "train")
    with pytest.raises(EyasError, match="elsewhere is not in"):
        read(root, "val")
    with pytest.raises(EyasError, match=r"has no split 'test' .* the splits there are: train, val"):
        read(root, "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train: " + "x" * 5000, r"data\.yaml: x+ is not in"),
        ("nc: 0x" + "f" * 5000, r"data\.yaml: not readable as YAML \(a number of 100 digits or more\)"),
        ("nc: 1" + ":59" * 20_000, r"data\.yaml: not readable as YAML \(a number of 100 digits or more\)"),
        ("path: ../other", r"data\.yaml: path: names .*other, which is outside"),
        ("path: /", r"data\.yaml: path: names /, which is outside"),
    ],
)
def test_a_description_that_is_not_believed(tmp_path, line, message):
    (tmp_path / "other").mkdir()
    train = "" if line.startswith("train:") else "train: images/train\n"
    root = make(tmp_path / "d", f"names: [cat]\n{train}{line}\n", {"a": ""})
    with pytest.raises(EyasError, match=message):
        read(root, "train")


def test_a_path_that_no_folder_can_have_is_not_there(tmp_path):
    root = make(tmp_path / "d", f"names: [cat]\npath: {'x' * 5000}\ntrain: images/train\n", {"a": ""})
    assert [r.image_id for r in read(root, "train").records] == ["images/train/a.png"]


@pytest.mark.parametrize("given", ["d", ".", "d/data.yaml"])
def test_absolute_paths_in_a_data_set_that_is_given_by_a_relative_one(tmp_path, monkeypatch, given):
    """As Ultralytics writes ``path:``, and Darknet its lists."""
    config = f"path: {tmp_path / 'd'}\nnames: [cat]\ntrain: images/train\nval: val.txt\n"
    root = make(tmp_path / "d", config, {"a": "0 .5 .5 .5 .5"})
    make(root / "more", "", {"b": "0 .5 .5 .5 .5"}, folder="images/val")
    (root / "val.txt").write_text(f"{root}/more/images/val/b.png\n{root}/images/train/a.png\n")
    monkeypatch.chdir(root if given == "." else tmp_path)
    train, val = (read(Path(given), split) for split in ("train", "val"))
    assert [len(one.boxes) for one in (*train.records, *val.records)] == [1, 1, 1]
    assert not train.problems and not val.problems and not val.warnings
    assert [one.image_id for one in val.records] == ["more/images/val/b.png", "images/train/a.png"]
    assert source_digest(val) == source_digest(read(root, "val"))
