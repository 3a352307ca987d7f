"""Records in arrays: what goes in comes out, a million of them are small, and workers share them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from eyas.data.formats.packed import PackedRecords
from eyas.data.formats.records import Annotation, build_record
from eyas.types import Record

NAMES = ("a.jpg", "ünï code/b c.png", "bytes\udcff.jpg", "lone\ud800.jpg")


def made(count: int, objects: int = 7) -> list[Record]:
    """Records with and without objects, ignore regions and attributes."""
    random, records = np.random.default_rng(0), []
    for number in range(count):
        corners = random.uniform(0, 200, (objects if number % 3 else 0, 2))
        boxes = [
            Annotation(
                (x, y, x + 9.5, y + 20), int(x) % 5, attributes={"area": 3 * y, "occluded": 1.0} if number % 2 else {}
            )
            for x, y in corners.tolist()
        ]
        regions = [Annotation((1, 2, 30, 40), number % 2 - 1, ignore=True)] * (number % 4 == 1)
        name = f"{number}/{NAMES[number % len(NAMES)]}"
        records.append(
            build_record(name, Path("/data/images", name), (640, 480 + number), [*boxes, *regions], Path())[0]
        )
    return records


def test_every_field_comes_back() -> None:
    before = made(24)
    packed = PackedRecords(before)
    assert len(packed) == 24
    for one, other in zip(before, packed, strict=True):
        assert (one.image_id, one.path, one.width, one.height) == (
            other.image_id,
            other.path,
            other.width,
            other.height,
        )
        assert type(other.width) is int and list(one.attributes) == list(other.attributes)
        for name in ("boxes", "labels", "ignore", "ignore_labels"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape and np.array_equal(mine, theirs), name
        for name, values in one.attributes.items():
            assert np.array_equal(values, other.attributes[name]) and other.attributes[name].dtype == np.float32


def test_it_is_indexed_as_a_tuple() -> None:
    before = tuple(made(10))
    packed = PackedRecords(before)
    assert packed[-1].image_id == before[-1].image_id
    for part in (slice(3), slice(None, None, -4), slice(8, 99)):
        assert [one.image_id for one in packed[part]] == [one.image_id for one in before[part]]
    for beyond in (10, -11):
        with pytest.raises(IndexError):
            packed[beyond]
    assert len(PackedRecords([])) == 0 and list(PackedRecords([])) == []


def test_an_image_takes_little_more_than_its_boxes() -> None:
    """Objects of Python took two kilobytes and more, in every process and worker."""
    before = made(3000)
    boxes = sum(record.boxes.nbytes + record.labels.nbytes for record in before)
    tracemalloc.start()
    packed = PackedRecords(before)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(packed) == 3000 and held < boxes + 3000 * 320


def test_records_share_the_arrays() -> None:
    packed = PackedRecords(made(10))
    assert np.shares_memory(packed[4].boxes, packed[4].boxes)
