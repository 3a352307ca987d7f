"""A split on which a metric is undefined gets a warning before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyas.data import DataSource
from eyas.evaluation import METRICS
from eyas.evaluation.ground_truth import remarks
from eyas.types import Record
from helpers.evaluation_cases import make_record


def split(*records: Record) -> DataSource:
    return DataSource("coco", Path("cells"), "val", ("nut", "bolt"), records)


HIGH, LOW = (0, 0, 50, 50), (0, 0, 50, 25)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_said_where_every_class_has_a_metric(metric: str) -> None:
    assert remarks(metric, split(make_record([HIGH, HIGH], [0, 1]))) == []


@pytest.mark.parametrize("metric", METRICS)
def test_a_split_without_objects(metric: str) -> None:
    (said,) = remarks(metric, split(make_record(), make_record(ignore=[HIGH], ignore_labels=[1])))
    assert "no image of split val has an object (ignore regions: 1)" in said
    assert "every metric is undefined" in said and "last weights count as the best" in said


@pytest.mark.parametrize("metric", METRICS)
def test_a_class_without_objects(metric: str) -> None:
    (said,) = remarks(metric, split(make_record([HIGH], [0])))
    assert said == "split val has no object of class bolt, which has no metric"


def test_kitti_leaves_out_low_objects_and_says_so() -> None:
    """The kit counts objects higher than 25 pixels; COCO's rules count all."""
    source = split(make_record([HIGH, LOW, LOW], [0, 1, 1]))
    (said,) = remarks("kitti", source)
    assert "no object of class bolt (2) in split val counts" in said and "at most 25 pixels high" in said
    assert remarks("coco", source) == remarks("voc", source) == []
    (every,) = remarks("kitti", split(make_record([LOW], [1])))
    assert "nut (0), bolt (1)" in every and "every metric is undefined" in every


def test_many_classes_are_cut_short() -> None:
    classes = tuple("abcdefghijkl")
    source = DataSource("coco", Path("cells"), "val", classes, (make_record([HIGH], [0]),))
    (said,) = remarks("coco", source)
    assert "class b, c, d, e, f, g, h, i and 3 more" in said
