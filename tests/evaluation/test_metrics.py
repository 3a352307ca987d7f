"""The table of metrics, and the contract that every metric keeps."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from eyas.args import MetricName
from eyas.evaluation import METRICS, EvaluationResult, default_metric, evaluate
from eyas.evaluation.result import mean
from eyas.types import EyasError
from helpers.evaluation_cases import make_prediction, make_record, random_case


def test_default_metric_of_each_format() -> None:
    formats = ("coco", "yolo", "imagefolder", "hf", "voc", "kitti")
    assert [default_metric(name) for name in formats] == ["coco", "coco", "coco", "coco", "voc", "kitti"]
    with pytest.raises(EyasError, match=r"pascal.*coco, yolo, imagefolder, hf, voc, kitti"):
        default_metric("pascal")


def test_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EyasError, match=r"'map'.*coco, voc, kitti"):
        evaluate("map", [], ["a"], [])


def test_the_command_line_offers_every_metric() -> None:
    assert get_args(MetricName) == tuple(METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_common_contract(metric: str) -> None:
    records, predictions = random_case(5, images=30)
    result = evaluate(metric, records, ["a", "b", "c", "never seen"], predictions)
    assert result.metric == metric and tuple(result.summary) == METRICS[metric].NAMES
    assert list(result.per_class) == ["a", "b", "c", "never seen"]
    assert all(list(values) == list(result.summary) for values in result.per_class.values())
    assert all(0 <= value <= 1 for value in result.summary.values())
    assert all(map(math.isnan, result.per_class["never seen"].values()))
    # An undefined class does not lower the mean.
    for name, value in result.summary.items():
        assert value == pytest.approx(mean([values[name] for values in result.per_class.values()]), abs=1e-12)
    assert result.primary == next(iter(result.summary.values()))
    assert len(result.table().splitlines()) == 6


@pytest.mark.parametrize("metric", METRICS)
def test_order_of_the_detections_does_not_matter(metric: str) -> None:
    records = [make_record([(0, 0, 60, 60)], [0])]
    boxes, scores = [(0, 0, 60, 60), (200, 0, 260, 60), (300, 0, 360, 60)], [0.5, 0.9, 0.3]
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    results = [
        evaluate(metric, records, ["a"], [make_prediction([boxes[i] for i in o], [scores[i] for i in o], [0] * 3)])
        for o in orders
    ]
    assert repr(results[0]) == repr(results[1]) == repr(results[2])


def test_mean_of_nothing_is_undefined() -> None:
    assert math.isnan(mean([])) and math.isnan(mean([math.nan]))
    assert mean([math.nan, 1.0, 0.0]) == 0.5


def test_headline_shows_the_first_three_metrics() -> None:
    summary = {"map_50": 0.1234, "map_50_11": math.nan, "map_easy": 1.0, "hidden": 0.0}
    assert EvaluationResult("voc", summary, {}).headline() == "mAP50 0.123  mAP50/11 -  mAP easy 1.000"
