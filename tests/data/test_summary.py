"""The report's numbers, by hand and by brute force."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torchvision.ops import box_iou

from eyas.data import DataSource, Problem, Resize, check_images, report
from eyas.data.formats.records import Annotation, build_record
from eyas.data.summary import best_iou
from eyas.ops.anchors import AnchorGrid, StrideGrid, shapes_to_cell_anchors

FILE = Path("labels.txt")


def source(*problems: Problem) -> DataSource:
    crowd = [Annotation((0, 0, 9, 9), 0, ignore=True), Annotation((0, 0, 9, 9), -1, ignore=True)]
    cats = [Annotation((10, 10, 26, 26), 0), Annotation((10, 10, 30, 90), 0), Annotation((0, 0, 100, 100), 1)]
    records = [
        build_record("a", Path("a.png"), (200, 100), cats, FILE)[0],
        build_record("b", Path("b.png"), (200, 100), crowd, FILE)[0],
        build_record("c", Path("c.png"), (50, 50), [], FILE)[0],
    ]
    return DataSource("yolo", Path("cells"), "train", ("cat", "dog", "eel"), tuple(records), problems)


def test_counts():
    lines = report(source()).splitlines()
    assert lines[0] == "cells: yolo format, split train"
    assert lines[1] == "3 images (2 without objects), 3 objects of 3 classes, 2 ignore regions"
    rows = [line.split() for line in lines[3:8]]
    assert rows[0] == ["class", "objects", "images", "ignored"]
    assert rows[1:] == [
        ["cat", "2", "1", "1"],
        ["dog", "1", "1", "0"],
        ["eel", "0", "0", "0"],
        ["every", "class", "1"],
    ]
    text = "\n".join(lines)
    assert "200x100 (2), 50x50 (1)" in text
    assert "small (< 32) 1, medium 1, large (>= 96) 1" in text and "from 16.0 to 100.0" in text
    assert "width / height: 5% 0.25, 25% 0.25, 50% 1.00, 75% 1.00, 95% 1.00" in text
    assert "none: every record and box is used" in text and "anchors" not in text


def test_boxes_are_told_in_the_frame_of_the_network():
    assert "from 8.0 to 50.0" in report(source(), resize=Resize(height=50, width=100))


def test_problems_come_with_file_and_line():
    text = report(source(Problem(FILE, 3, "cat has no area; dropped"), Problem(FILE, None, "odd; dropped")))
    assert text.endswith("problems     dropped, clipped or unreadable: 2\n  labels.txt:3: cat has no area; dropped\n"
                         "  labels.txt: odd; dropped")  # fmt: skip


def test_best_iou_is_that_of_brute_force():
    torch.manual_seed(0)
    start = torch.rand(50, 2) * 120 - 20
    boxes = torch.cat((start, start + 1 + torch.rand(50, 2) * 60), 1)
    grids = [
        AnchorGrid(shapes_to_cell_anchors([(16, 16), (11, 30)]), (5, 8), (8.0, 7.5), (3.0, 4.0)),
        AnchorGrid(torch.tensor([[-3.0, -10, 40, 20]]), (3, 4), (30.0, 25.0)),
    ]
    anchors = torch.cat([grid.anchors().reshape(-1, 4) for grid in grids])
    torch.testing.assert_close(torch.from_numpy(best_iou(boxes.numpy(), grids)), box_iou(boxes, anchors).amax(1))
    assert best_iou(boxes[:0].numpy(), grids).shape == (0,)


def test_coverage_asks_for_the_grid_of_each_input_size():
    asked = []

    def grids(size):
        asked.append(size)
        return [StrideGrid(10)((size[0] // 10, size[1] // 10), size)]

    text = report(source(), resize=Resize(shorter=50), grids=grids)
    assert sorted(asked) == [(50, 50), (50, 100)]
    assert "best IoU of a box with an anchor" in text and "of the boxes" in text


def test_a_split_without_objects():
    only = DataSource("yolo", Path("cells"), "val", ("cat",), source().records[2:])
    text = report(only, grids=lambda size: [StrideGrid(10)((5, 5), size)])
    assert "box sizes    no objects" in text and "anchors      no objects" in text
    assert "warning      no image of split val has an object" in text and "warning" not in report(source())


def test_check_images_lists_what_a_training_would_stop_at(tmp_path):
    for name, size in (("good", (8, 6)), ("turned", (6, 8))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no image")
    paths = [tmp_path / f"{name}.png" for name in ("good", "turned", "text")]
    records = tuple(build_record(path.stem, path, (8, 6), [], FILE)[0] for path in paths)
    found = check_images(DataSource("yolo", tmp_path, "val", ("cat",), records))
    assert [problem.path.stem for problem in found] == ["turned", "text"]
    assert found[0].message.startswith("is 6x8 pixels, but its annotation says 8x6")
    assert str(found[1]).startswith(f"{paths[2]}: cannot be decoded")


def test_a_file_name_that_is_not_utf_8_can_be_printed():
    text = report(source(Problem(Path("caf\udce9.txt"), 2, "cat is not finite; dropped")))
    assert r"caf\udce9.txt:2: cat is not finite; dropped" in text
    text.encode("utf-8")
