"""Images held out of a split for evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyas.data import DataSource, SplitOptions
from eyas.data.formats.records import Annotation, build_record
from eyas.data.held_out import held_out
from eyas.types import EyasError


def source(root: Path, full: int, empty: int = 0, copies: int = 0) -> DataSource:
    """``full`` images with an object, ``empty`` without, and ``copies`` more files of the first image."""
    records = []
    for number in range(full + empty + copies):
        path = root / f"{number:03}.png"
        shade = 0 if number >= full + empty else number
        Image.new("RGB", (8, 8), (shade, shade // 256, 9)).save(path)
        boxes = [Annotation((0, 0, 4, 4), 0)] if number < full or number >= full + empty else []
        records.append(build_record(path.stem, path, (8, 8), boxes, path)[0])
    return DataSource("coco", root, "train", ("cat",), tuple(records))


def names(part: DataSource) -> list[str]:
    return [record.image_id for record in part.records]


@pytest.mark.parametrize(
    ("full", "empty", "fraction", "expected"),
    [
        *((10, 0, 0.2, (2, 0)), (100, 50, 0.2, (20, 10)), (2, 0, 0.2, (1, 0)), (2, 0, 0.9, (1, 0))),
        *((7, 0, 0.01, (1, 0)), (1, 5, 0.2, (0, 1)), (1, 1, 0.2, (0, 1)), (4, 1, 0.2, (1, 0)), (3, 30, 0.1, (1, 3))),
    ],
)
def test_both_kinds_of_images_are_held_out(tmp_path, full, empty, fraction, expected):
    whole = source(tmp_path, full, empty)
    train, val = held_out(whole, "train", SplitOptions(val_fraction=fraction))
    objects = sum(len(record.boxes) for record in val.records)
    assert (objects, len(val.records) - objects) == expected
    assert sorted(names(train) + names(val)) == names(whole)


def test_copies_of_an_image_stay_together(tmp_path):
    whole = source(tmp_path, 6, copies=5)
    sides = set()
    for seed in range(12):
        parts = held_out(whole, "train", SplitOptions(val_seed=seed))
        holds = [[name in names(part) for name in ("000", "006", "007", "008", "009", "010")] for part in parts]
        assert sorted(map(all, holds)) == sorted(map(any, holds)) == [False, True]
        sides.add(holds[0][0])
    assert sides == {True, False}  # the seed decides


def test_names_order_and_other_images_do_not_decide(tmp_path):
    whole = source(tmp_path, 40)
    before = held_out(whole, "train", SplitOptions())[1]
    chosen = {record.path.read_bytes() for record in before.records}
    renamed = []
    for record in reversed(whole.records):
        record.path.rename(record.path.with_name(f"x{record.path.name}"))
        renamed.append(replace(record, path=record.path.with_name(f"x{record.path.name}")))
    after = held_out(replace(whole, records=tuple(renamed)), "train", SplitOptions())[1]
    assert {record.path.read_bytes() for record in after.records} == chosen
    fewer = held_out(replace(whole, records=tuple(renamed[5:])), "train", SplitOptions())[1]
    assert len({record.path.read_bytes() for record in fewer.records} - chosen) <= 2


def test_too_few_images(tmp_path):
    with pytest.raises(EyasError, match="has no two different images, so none can be held out"):
        held_out(source(tmp_path, 1, copies=3), "train", SplitOptions())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, np.nan, "half", None])
def test_fractions_that_are_none(fraction):
    with pytest.raises(EyasError, match=r"val_fraction must be a number in \[0, 1\)"):
        SplitOptions(val_fraction=fraction)
