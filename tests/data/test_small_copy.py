"""Small copies of a data set: their sizes, their choice of images, and their boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyas.data import read, write_coco
from eyas.data.formats.records import DataSource
from eyas.data.small_copy import common_size, spread_evenly, write_small_copies
from eyas.types import EyasError, Record
from helpers.tiny import write_squares


def source_of(root: Path, count: int, width: int = 120, height: int = 60) -> DataSource:
    """Grey images, one box from (30, 15) to (60, 45) in each."""
    box, pixels = np.array([[30.0, 15, 60, 45]], np.float32), np.full((height, width, 3), 90, np.uint8)
    write_coco(root, "train", ["thing"], [(f"{index}", pixels, box, np.array([0])) for index in range(count)])
    return read(root, "train")


def record(width: int, height: int) -> Record:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Record("image", Path("image.png"), width, height, *nothing, *nothing)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([(640, 480)], (192, 256)),
        ([(480, 640)], (256, 192)),
        ([(500, 500), (640, 480), (4000, 100)], (192, 256)),
        ([(9000, 100)], (160, 320)),  # aspect 2 at most
    ],
)
def test_copies_have_the_median_aspect_ratio(images: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert common_size([record(*image) for image in images], 256 * 192) == expected


def test_images_are_spread_over_the_split_and_those_with_ignore_regions_left_out() -> None:
    records = [replace(record(8, 8), image_id=str(index)) for index in range(10)]
    assert [found.image_id for found in spread_evenly(records, 4)] == ["0", "2", "5", "7"]
    assert spread_evenly(records, 20) == records
    crowd = np.zeros((1, 4), np.float32)
    records[0] = replace(records[0], ignore=crowd)
    assert [found.image_id for found in spread_evenly(records, 3)] == ["1", "4", "7"]
    assert len(spread_evenly([replace(found, ignore=crowd) for found in records], 20)) == 10


def test_boxes_follow_the_pixels(tmp_path: Path) -> None:
    source = source_of(tmp_path / "data", 3)
    advanced: list[int] = []
    root = write_small_copies(
        {"train": source}, tmp_path / "copies", (32, 48), {"train": 2}, lambda: advanced.append(1)
    )
    copied = read(root, "train")
    assert len(copied.records) == len(advanced) == 2
    assert copied.classes == ("thing",)
    first = copied.records[0]
    assert (first.width, first.height) == (48, 32)
    np.testing.assert_allclose(first.boxes, [[12, 8, 24, 24]])
    with Image.open(first.path) as image:
        assert image.size == (48, 32) and image.getpixel((5, 5)) == (90, 90, 90)


def test_a_complete_copy_stays_and_one_of_other_images_is_refused(tmp_path: Path) -> None:
    source = read(write_squares(tmp_path / "squares"), "train")
    root = write_small_copies({"train": source}, tmp_path / "copies", (64, 64), {"train": 4})
    first = sorted(root.rglob("*.png"))[0]
    before = first.stat().st_mtime_ns
    write_small_copies({"train": source}, root, (64, 64), {"train": 4})
    assert first.stat().st_mtime_ns == before
    with pytest.raises(EyasError, match="remove it"):
        write_small_copies({"train": source}, root, (64, 64), {"train": 3})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(EyasError, match="remove it"):
        write_small_copies({"train": source}, tmp_path / "mine", (64, 64), {"train": 4})


def test_an_interrupted_copy_is_made_again(tmp_path: Path) -> None:
    source = source_of(tmp_path / "data", 3)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_small_copies({"train": source}, tmp_path / "copies", (32, 64), {"train": 3}, stop)
    write_small_copies({"train": source}, tmp_path / "copies", (32, 64), {"train": 3})
    assert len(read(tmp_path / "copies", "train").records) == 3
