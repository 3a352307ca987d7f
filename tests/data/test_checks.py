"""What makes a split another one than it seems is refused, or said in a sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from eyas.data import SplitOptions, read, read_splits
from eyas.data.images import find_image
from eyas.types import EyasError
from helpers.drawn import HEIGHT, WIDTH, assert_drawn, coco, draw, voc, yolo

NAMES = "names: [bolt, nut]\n"


def coco_folder(root: Path, change) -> Path:
    content = coco({number: draw(root / "images" / f"img{number}.png", number).name for number in range(6)})
    (root / "train.json").write_text(json.dumps(change(content)))
    return root


def boxes_as(form, count: int = 7):
    def change(content):
        annotations = [
            {**entry, "bbox": form(*entry["bbox"])} if index < count else entry
            for index, entry in enumerate(content["annotations"])
        ]
        return {**content, "annotations": annotations}

    return change


def fractions(x, y, w, h):
    return [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


def yolo_folder(root: Path, change=str) -> Path:
    for number in range(6):
        draw(root / "images" / f"img{number}.png", number)
        path = root / "labels" / f"img{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(change(line) + "\n" for line in yolo(number).splitlines()))
    (root / "data.yaml").write_text("train: images\n" + NAMES)
    return root


def test_boxes_in_fractions_are_refused_or_told(tmp_path):
    root = coco_folder(tmp_path, boxes_as(fractions))
    with pytest.raises(EyasError, match=r"is inside the first pixel, as if written in fractions .*\[x, y, width"):
        read(root, "train")
    (warning,) = read(coco_folder(root, boxes_as(fractions, 2)), "train").warnings
    assert "2 boxes are inside the first pixel" in warning


def test_two_lines_for_one_image_are_refused(tmp_path):
    """Written otherwise, so that the reader of the lines takes them for two."""
    draw(tmp_path / "train" / "a.png", 0)
    objects = {"bbox": [[1, 1, 5, 5]], "category": ["bolt"]}
    lines = [{"file_name": name, "objects": objects} for name in ("a.png", "./a.png")]
    (tmp_path / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(EyasError, match=r"of the split train have the same file, .*a\.png; make them one entry"):
        read(tmp_path, "train", boxes="xywh")


def test_boxes_of_corners_are_told(tmp_path):
    source = read(coco_folder(tmp_path, boxes_as(lambda x, y, w, h: [x, y, x + w, y + h])), "train")
    (warning,) = source.warnings
    assert f"{len(source.problems)} records or boxes are dropped or clipped" in warning
    assert "coco files have [x, y, width, height] in pixels" in warning
    few = read(coco_folder(tmp_path, lambda content: content), "train")
    assert not few.warnings


def test_objects_that_are_written_twice_are_told_and_kept(tmp_path):
    root = yolo_folder(tmp_path, lambda line: f"{line}\n{line}" if line.startswith("0") else line)
    source = read(root, "train")
    assert_drawn(source, 6, 9)
    (warning,) = source.warnings
    assert "2 objects have the class and the box of another" in warning and "img1.png" in warning


def test_images_of_both_splits_are_told(tmp_path):
    root = yolo_folder(tmp_path)
    (root / "data.yaml").write_text("train: images\nval: images\n" + NAMES)
    train, val = read_splits(root, SplitOptions())
    assert not train.warnings
    assert val.warnings == ("6 of the 6 images of val are in train, too: a score is too good",)


def test_lines_with_confidence_and_track_are_no_triangles(tmp_path):
    with pytest.raises(EyasError, match=r"txt:1: looks like a box with a confidence and the number of a track"):
        read(yolo_folder(tmp_path, lambda line: f"{line} 0.9 3"), "train")
    triangles = yolo_folder(tmp_path, lambda line: f"{line.split()[0]} 0.1 0.1 0.9 0.1 0.5 0.75")
    assert not read(triangles, "train").problems


def test_two_boxes_of_one_object_are_refused(tmp_path):
    draw(tmp_path / "a.png", 0)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "a.xml").write_text(voc(0).replace("</bndbox>", f"</bndbox>{box}"))
    with pytest.raises(EyasError, match=r"a\.xml:2: this object has two <bndbox>; write an <object> for each"):
        read(tmp_path, "all")


def test_entries_that_are_written_twice_are_one(tmp_path):
    def doubled(content):
        return {**content, "images": content["images"] * 2, "categories": content["categories"] * 2}

    source = read(coco_folder(tmp_path, doubled), "train")
    assert_drawn(source, 6, 7)
    assert not source.problems and not source.warnings


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    root = yolo_folder(tmp_path)
    (root / "data.yaml").write_text("train: images\ntrain: other\n" + NAMES)
    with pytest.raises(EyasError, match=r"data\.yaml: not readable as YAML \(train: is there twice; write it once\)"):
        read(root, "train")


def test_a_split_without_images_is_not_said_to_have_too_few(tmp_path):
    root = yolo_folder(tmp_path)
    for path in (root / "images").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(EyasError, match=r"the split train has no images"):
        read_splits(root, SplitOptions())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train/metadata.jsonl", "{}", "Hugging Face"),
        ("data/train-0.arrow", "ARROW1", "save_to_disk"),
        ("parts.zip", "PK", "unpack it"),
        ("train/_annotations.csv", "filename,class", "CSV"),
        ("img0.json", '{"shapes": []}', "LabelMe"),
        ("project.json", '[{"data": {"image": "a"}, "annotations": []}]', "Label Studio"),
        ("labels/img0.txt", "0 0.5 0.5 0.1 0.1", "names:"),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(EyasError, match=rf"no data set recognised.*\. {path} .*{said}"):
        read(tmp_path, "train")


def test_images_without_annotations_and_data_sets_further_below_are_named(tmp_path):
    image = draw(tmp_path / "a/b/c/images/img0.png", 0)
    with pytest.raises(EyasError, match="no data set recognised"):
        read(tmp_path, "train")
    yolo_folder(tmp_path / "a/b/c")
    with pytest.raises(EyasError, match=rf"Data sets are in {tmp_path / 'a/b'}: give one of them"):
        read(tmp_path, "train")
    with pytest.raises(EyasError, match=rf"There are images, such as {image}, but no annotations"):
        read(image.parent, "train")


@pytest.mark.parametrize("suffix", [".heic", ".AVIF", ".dng"])
def test_images_that_are_not_read_are_told(tmp_path, suffix):
    root = yolo_folder(tmp_path / "yolo")
    assert not read(root, "train").warnings
    (root / "images" / f"phone{suffix}").write_bytes(b"\0\0\0\x18ftypheic")
    (warning,) = read(root, "train").warnings
    assert f"1 images beside its own are left out, such as {root / 'images'}" in warning and "convert it" in warning
    for path in (root / "images").glob("*.png"):
        path.rename(path.with_suffix(suffix))
    with pytest.raises(EyasError, match=rf"has no images .*{suffix}: its format is not read: convert it"):
        read(root, "train")


def test_a_labelled_image_that_is_not_read_is_named(tmp_path):
    (tmp_path / "img.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(EyasError, match=r"img\.heic: its format is not read: convert it"):
        find_image(tmp_path, "img")


def test_a_folder_that_cannot_be_listed_ends_the_search(tmp_path, monkeypatch):
    root, scandir = yolo_folder(tmp_path / "yolo"), os.scandir
    (root / "images" / "inner").mkdir()

    def refused(path):
        if Path(path).name == "inner":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="inner"):
        read(root, "train")
