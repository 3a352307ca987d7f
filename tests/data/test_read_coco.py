"""The COCO reader and writer, against pycocotools where it can be the judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from eyas.data import read, write_coco
from eyas.data.formats.classes import known
from eyas.data.formats.coco import parse
from eyas.data.images import decode
from eyas.evaluation.coco import results
from eyas.types import EyasError

FILE = Path("instances_train.json")


def content(*annotations: dict, **more: object) -> dict:
    return {
        "images": [
            {"id": 70, "file_name": "b.png", "width": 20, "height": 10},
            {"id": 5, "file_name": "a.png", "width": 20, "height": 10},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "emu"}],
        "annotations": [{"id": n, "image_id": 70, **annotation} for n, annotation in enumerate(annotations, start=1)],
        **more,
    }


def save(root: Path, path: str, data: dict, images: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(data))
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10)).save(root / images / name)
    return root


EMU = {"category_id": 3, "bbox": [1, 2, 3, 4], "area": 7.5, "iscrowd": 0}
CROWD = {"category_id": 90, "bbox": [0, 0, 9, 9], "area": 50, "iscrowd": 1}


def test_parse_sorts_categories_and_parts_crowds():
    classes, found, problems = parse(content(EMU, CROWD, {**EMU, "image_id": 6}), FILE, None)
    assert classes == ("emu", "zebra")
    emu, crowd = found[70]
    assert (emu.box, emu.label, emu.ignore, emu.attributes) == ((1, 2, 4, 6), 0, False, {"area": 7.5})
    assert (crowd.box, crowd.label, crowd.ignore) == ((0, 0, 9, 9), 1, True)
    assert found[5] == []
    assert [p.message for p in problems] == ["annotation 3 belongs to image 6, which is not in images; dropped"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "is not a COCO file"),
        ({"images": [], "categories": []}, "is not a COCO file: it needs the lists images, annotations, categories"),
        (content({**EMU, "category_id": 4}), "annotation 1 has the unknown category 4; .* 3 emu, 90 zebra"),
        (content({**EMU, "bbox": [1, 2, 3]}), r"annotation 1 has bbox \[1, 2, 3\]"),
        (content({"category_id": 3}), "annotation 1 has neither bbox nor segmentation"),
        (content(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]), "two entries have the image id 1"),
        (content(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "two categories have one name"),
    ],
)
def test_parse_names_what_is_wrong(data, message):
    with pytest.raises(EyasError, match=rf"instances_train\.json: .*{message}"):
        parse(data, FILE, None)


@pytest.mark.parametrize(
    ("path", "images", "split"),
    [
        ("annotations/instances_train.json", "images/train", "train"),
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("annotations/instances_val2017.json", "images/val2017", "val"),
        ("annotations/instances_train.json", "images", "train"),
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("train.json", ".", "train"),
        ("train.json", "train", "train"),
    ],
)
def test_read_every_layout(tmp_path, path, images, split):
    bad = {"category_id": 3, "bbox": [1, 2, 0, 4]}
    source = read(save(tmp_path, path, content(EMU, CROWD, bad), images), split)
    assert (source.format, source.classes) == ("coco", ("emu", "zebra"))
    first, second = source.records
    assert (first.image_id, first.path.name, first.width, first.height) == ("70", "b.png", 20, 10)
    assert first.boxes.tolist() == [[1, 2, 4, 6]] and first.attributes["area"].tolist() == [7.5]
    assert first.ignore.tolist() == [[0, 0, 9, 9]] and first.ignore_labels.tolist() == [1]
    assert second.image_id == "5" and len(second.boxes) == 0
    assert [p.message for p in source.problems] == ["b.png: annotation 3 (1, 2, 1, 6) has no area; dropped"]


def test_size_from_the_header_where_the_file_has_none(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}]
    save(tmp_path, "train.json", content(images=images), ".")
    assert [(r.width, r.height) for r in read(tmp_path, "train").records] == [(20, 10)]


def test_missing_parts_are_named(tmp_path):
    root = save(tmp_path, "annotations/instances_train.json", content(EMU), "images/train")
    with pytest.raises(EyasError, match=r"has no split 'val' .*the splits there are: train\."):
        read(root, "val")
    (root / "images/train/a.png").unlink()
    with pytest.raises(EyasError, match=r"a\.png is not in .*images/train"):
        read(root, "train")
    (root / "images/train/b.png").unlink()
    with pytest.raises(EyasError, match=r"the image b\.png is in none of"):
        read(root, "train")
    (root / "annotations/instances_train.json").write_text('{"images":\n[}')
    with pytest.raises(EyasError, match=r"instances_train\.json:2: broken JSON"):
        read(root, "train")
    save(tmp_path, "annotations/instances_train.json", content(images=[]), "images/train")
    with pytest.raises(EyasError, match="lists no images"):
        read(root, "train")


def test_classes_given_by_the_user(tmp_path):
    root = save(tmp_path, "train.json", content(EMU), ".")
    assert read(root, "train", classes=["zebra", "emu"]).records[0].labels.tolist() == [1]
    with pytest.raises(EyasError, match=r"train\.json: unknown class 'emu'; the classes are zebra"):
        read(root, "train", classes=known(["zebra"]))


def items():
    random = np.random.default_rng(0)
    for n in range(3):
        boxes = torch.tensor([[1.0, 2.0, 5.5, 9.0], [0.0, 0.0, 12.0, 10.0]])[:n]
        yield f"image{n}", random.integers(0, 255, (10, 12, 3), dtype=np.uint8), boxes, torch.tensor([1, 0])[:n]


def test_what_is_written_is_read_back_and_pycocotools_agrees(tmp_path, capsys):
    path = write_coco(tmp_path, "val", ("cat", "dog"), items())
    source = read(tmp_path, "val")
    assert source.classes == ("cat", "dog") and not source.problems
    judge = COCO(str(path))
    capsys.readouterr()
    for record, (name, pixels, boxes, labels) in zip(source.records, items(), strict=True):
        assert record.path.stem == name
        assert torch.equal(decode(record), torch.from_numpy(pixels).permute(2, 0, 1))
        assert np.array_equal(record.boxes, boxes) and np.array_equal(record.labels, labels)
        judged = judge.loadAnns(judge.getAnnIds(imgIds=[int(record.image_id)]))
        assert [entry["category_id"] - 1 for entry in judged] == labels.tolist()
        assert [entry["area"] for entry in judged] == record.attributes.get("area", np.zeros(0)).tolist()


def test_a_writer_that_is_cut_off_leaves_no_data_set(tmp_path):
    def broken():
        yield from items()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path, "train", ("cat", "dog"), broken())
    assert not list(tmp_path.glob("annotations/*"))


def test_an_id_of_two_annotations_is_reported_and_an_entry_repeated_is_dropped(tmp_path):
    other = {**EMU, "bbox": [4, 4, 3, 3]}
    written = content(EMU, other, EMU)
    written["annotations"] = [{**entry, "id": 1} for entry in written["annotations"]]
    source = read(save(tmp_path, "train.json", written, "."), "train")
    assert source.records[0].boxes.tolist() == [[1, 2, 4, 6], [4, 4, 7, 7]]
    assert [p.message for p in source.problems] == [
        "annotation 1 shares its id with another; both are kept",
        "annotation 1 occurs twice; the second is dropped",
    ]


def test_two_entries_of_one_file_are_refused(tmp_path):
    images = [{"id": number, "file_name": name} for number, name in ((1, "a.png"), (2, "./a.png"))]
    root = save(tmp_path, "train.json", content(images=images), ".")
    with pytest.raises(EyasError, match=r"the entries 1 and 2 of the split train have the same file, .*a\.png"):
        read(root, "train")


@pytest.mark.parametrize("side", [[], "", False, {}])
def test_a_side_that_is_no_number_is_refused(tmp_path, side):
    images = [{"id": 1, "file_name": "a.png", "width": side, "height": 10}]
    with pytest.raises(EyasError, match=r"image 1 has the width .*; write a number"):
        read(save(tmp_path, "train.json", content(images=images), "."), "train")


def test_ids_that_are_texts_stay_as_they_are_written(tmp_path):
    """Digits are compared as the numbers that they are, of any length, and written as they stood."""
    data = content(EMU)
    long = "20230915123456789012"
    data["images"][0]["id"], data["images"][1]["id"] = "000042", long
    data["annotations"] = [{**EMU, "id": 1, "image_id": "000042"}, {**EMU, "id": 2, "image_id": long}]
    other = {"id": f"{long[:-1]}3", "file_name": "c.png", "width": 20, "height": 10}
    root = save(tmp_path, "train.json", {**data, "images": [*data["images"], other]}, ".")
    Image.new("RGB", (20, 10)).save(root / "c.png")
    source = read(root, "train")
    assert [one.image_id for one in source.records] == ["000042", long, f"{long[:-1]}3"]
    assert [len(one.boxes) for one in source.records] == [1, 1, 0]
    found = {"boxes": torch.ones(1, 4), "labels": torch.zeros(1).long(), "scores": torch.ones(1)}
    assert [one["image_id"] for one in results(source, [found] * 3)] == ["000042", int(long), int(long) + 1]
