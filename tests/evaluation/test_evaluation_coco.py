"""The COCO evaluator against pycocotools, and its limiting cases."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eyas.data import DataSource
from eyas.detectors import detection_count
from eyas.evaluation import EvaluationResult, chosen_metric, evaluate, run_metric
from eyas.evaluation.coco import NAMES, detections, ground_truth, results
from eyas.evaluation.ground_truth import remarks, too_few_detections
from eyas.types import EyasError, Prediction, Record
from helpers.evaluation_cases import make_prediction, make_record, random_case


def reference(records: list[Record], classes: list[str], predictions: list[Prediction]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(records, classes)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections(predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_same(result: EvaluationResult, expected: COCOeval, classes: list[str]) -> None:
    stats = np.where(expected.stats == -1, np.nan, expected.stats)
    # cocoeval's order: AP, AP50, AP75, small, medium, large, then recall at 1, 10 and 100.
    for name, value in zip(NAMES, stats[[0, 1, 2, 3, 4, 5, 8]], strict=True):
        assert result.summary[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    for k, name in enumerate(classes):
        precision = expected.eval["precision"][:, :, k, :, -1]
        for area, figure in ((0, "map"), (1, "map_small"), (2, "map_medium"), (3, "map_large")):
            values = precision[..., area][precision[..., area] > -1]
            value = values.mean() if values.size else math.nan
            assert result.per_class[name][figure] == pytest.approx(value, abs=1e-12, nan_ok=True), (name, figure)


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools_on_random_data(seed: int) -> None:
    classes = ["a", "b", "c", "without ground truth"] if seed % 2 else ["a", "b", "c"]
    records, predictions = random_case(seed, area=seed % 3 != 0)
    result = evaluate("coco", records, classes, predictions)
    assert 0 < result.summary["map"] < 1
    assert_same(result, reference(records, classes, predictions), classes)


def test_keeps_the_hundred_best_detections_of_an_image_as_pycocotools_does() -> None:
    records, predictions = random_case(3, images=4, classes=1, crowded=130)
    result = evaluate("coco", records, ["a"], predictions)
    assert max(len(p["scores"]) for p in predictions) > 130
    assert_same(result, reference(records, ["a"], predictions), ["a"])


def test_a_result_file_scores_alike_against_the_data_sets_own_file() -> None:
    """By pycocotools, with the data set's ids of images and categories."""
    records, predictions = random_case(2)
    classes, ids = ("a", "b", "c"), (17, 3, 5)
    source = DataSource("coco", Path(), "val", classes, tuple(records), category_ids=ids)
    content = ground_truth(records, classes)
    for entry in content["images"]:
        entry["id"] = int(records[entry["id"] - 1].image_id)
    for entry in content["annotations"]:
        entry["image_id"], entry["category_id"] = entry["image_id"] - 1, ids[entry["category_id"]]
    for entry in content["categories"]:
        entry["id"] = ids[entry["id"]]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        theirs = COCOeval(truth, truth.loadRes(results(source, predictions)), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = evaluate("coco", records, classes, predictions)
    assert ours.primary == pytest.approx(theirs.stats[0], abs=1e-12) and ours.primary > 0
    texts = [make_record([(0, 0, 9, 9)], [0], image_id=name) for name in ("000001", "7", "-5", "--5")]
    others = DataSource("voc", Path(), "val", classes, tuple(texts))
    found = results(others, [make_prediction([(0, 0, 9, 9)], [0.5], [2])] * 4)
    assert [(entry["image_id"], entry["category_id"], entry["category"]) for entry in found] == [
        ("000001", 3, "c"),
        (7, 3, "c"),
        (-5, 3, "c"),
        ("--5", 3, "c"),
    ]


def crowd(objects: int) -> tuple[list[Record], list[Prediction]]:
    """One image of as many objects of one class, all of them found."""
    boxes = [(10 * (i % 20), 10 * (i // 20), 10 * (i % 20) + 8, 10 * (i // 20) + 8) for i in range(objects)]
    return [make_record(boxes, [0] * objects)], [make_prediction(boxes, [1.0] * objects, [0] * objects)]


def test_another_limit_of_detections_is_that_of_pycocotools_and_has_another_name() -> None:
    records, predictions = random_case(3, images=4, classes=2, crowded=130)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = reference(records, ["a", "b"], predictions)
        expected.params.maxDets = [1, 10, 20]
        expected.evaluate()
        expected.accumulate()
    result = evaluate("coco_max20", records, ["a", "b"], predictions)
    names = ["map_max20", "map_50_max20", "map_75_max20", "map_small_max20", "map_medium_max20", "map_large_max20"]
    assert list(result.summary) == [*names, "mar_max20"] and result.metric == "coco_max20"
    precision, recall = expected.eval["precision"][..., 0, -1], expected.eval["recall"][..., 0, -1]
    assert result.primary == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    assert result.summary["mar_max20"] == pytest.approx(recall[recall > -1].mean(), abs=1e-12)
    assert result.primary != evaluate("coco", records, ["a", "b"], predictions).primary
    assert repr(evaluate("coco_max100", records, ["a", "b"], predictions)) == repr(
        evaluate("coco", records, ["a", "b"], predictions)
    )
    assert "mAP max20 " in result.headline() and "mAP50 max20 " in result.headline()


def test_a_hundred_detections_cap_a_perfect_detector() -> None:
    """151 objects, all found: 100 of them count, so precision is 1 up to a recall of 100/151, 67 of 101 points."""
    records, predictions = crowd(151)
    assert evaluate("coco", records, ["a"], predictions).primary == pytest.approx(67 / 101)
    assert evaluate("coco_max151", records, ["a"], predictions).primary == 1.0
    (said,) = remarks("coco", DataSource("coco", Path(), "val", ("a",), tuple(records)))
    assert "1 images of val have more than 100 objects of one class (up to 151)" in said
    assert "a perfect detector has map 0.663" in said and "max_detections 151 counts them all" in said
    few = DataSource("coco", Path(), "val", ("a",), tuple(crowd(100)[0]))
    assert remarks("coco", few) == remarks("coco_max200", few) == remarks("voc", few) == []


def test_the_limit_of_detections_as_an_option() -> None:
    assert chosen_metric(None, 300, "coco") == chosen_metric("coco", 300, "voc") == "coco_max300"
    assert chosen_metric(None, None, "yolo") == chosen_metric("coco", 100, "voc") == "coco"
    with pytest.raises(EyasError, match=r"max_detections 300: the rules of voc count all detections"):
        chosen_metric(None, 300, "voc")
    recorded = {"run": {"metric": "coco", "max_detections": 300}}
    assert run_metric(recorded, "voc") == "coco_max300"
    assert run_metric(recorded, "voc", metric="coco") == "coco"
    assert run_metric(recorded, "voc", max_detections=50) == "coco_max50"
    assert run_metric({}, "voc") == "voc"
    own_rules = {"run": {"metric": None, "max_detections": 300}}
    assert run_metric(own_rules, "coco") == "coco_max300"
    assert run_metric(own_rules, "voc") == "voc", "the limit was that of COCO's rules"
    assert run_metric(own_rules, "voc", metric="coco") == "coco"


def test_a_detector_that_returns_fewer_detections_than_there_are_objects() -> None:
    source = DataSource("coco", Path(), "val", ("a",), tuple(crowd(151)[0]))
    assert detection_count("shuffledet", {}) == 64
    assert detection_count("shuffledet", {"detections": 151}) == 151
    assert detection_count("custom", {}) is None
    assert "at most 64 detections of an image, and images of val have up to 151 objects" in str(
        too_few_detections(64, source)
    )
    assert too_few_detections(151, source) is too_few_detections(None, source) is None


def test_hand_computed() -> None:
    # One of two objects is found, exactly: precision 1 up to recall 0.5, which is 51 of the 101 recall points.
    records = [make_record([(0, 0, 50, 50), (100, 100, 200, 200)], [0, 0])]
    result = evaluate("coco", records, ["a"], [make_prediction([(0, 0, 50, 50)], [0.9], [0])])
    assert result.summary["map"] == pytest.approx(51 / 101)
    assert result.summary["mar_100"] == 0.5
    assert result.summary["map_medium"] == 1.0
    assert result.summary["map_large"] == 0.0
    assert math.isnan(result.summary["map_small"])


def test_area_attribute_decides_the_size() -> None:
    records = [make_record([(0, 0, 100, 100)], [0], area=torch.tensor([900.0]))]
    result = evaluate("coco", records, ["a"], [make_prediction([(0, 0, 100, 100)], [0.9], [0])])
    assert result.summary["map_small"] == 1.0
    assert math.isnan(result.summary["map_large"])


@pytest.mark.parametrize(("label", "expected"), [(0, 1.0), (-1, 1.0), (1, 0.5)])
def test_detection_on_an_ignore_region_of_its_class_is_not_counted(label: int, expected: float) -> None:
    records = [make_record([(0, 0, 50, 50)], [0], [(100, 100, 200, 200)], [label])]
    found = make_prediction([(120, 120, 160, 160), (0, 0, 50, 50)], [0.9, 0.8], [0, 0])
    assert evaluate("coco", records, ["a", "b"], [found]).per_class["a"]["map"] == pytest.approx(expected)


def test_truth_without_detections_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate("coco", [make_record([(0, 0, 50, 50)], [0])], ["a", "b"], [make_prediction()])
    assert result.summary["map"] == result.summary["mar_100"] == 0.0
    assert math.isnan(result.per_class["b"]["map"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("found", [make_prediction(), make_prediction([(0, 0, 9, 9)], [0.5], [0])])
def test_no_truth_is_undefined(found: Prediction) -> None:
    result = evaluate("coco", [make_record()], ["a"], [found])
    assert all(map(math.isnan, result.summary.values()))
    assert all(map(math.isnan, evaluate("coco", [], ["a"], []).summary.values()))


def test_inputs_are_not_changed() -> None:
    records, predictions = random_case(1)
    before = [prediction["boxes"].clone() for prediction in predictions]
    results = [evaluate("coco", records, ["a", "b", "c"], predictions) for _ in range(2)]
    assert repr(results[0]) == repr(results[1])
    assert all(torch.equal(a, b["boxes"]) for a, b in zip(before, predictions, strict=True))


def test_bad_predictions_are_named() -> None:
    record = make_record([(0, 0, 50, 50)], [0], image_id="street_7")
    with pytest.raises(EyasError, match=r"street_7.*label 3.*2 classes"):
        evaluate("coco", [record], ["a", "b"], [make_prediction([(0, 0, 5, 5)], [0.5], [3])])
    with pytest.raises(EyasError, match=r"street_7.*not finite"):
        evaluate("coco", [record], ["a", "b"], [make_prediction([(0, 0, 5, 5)], [math.nan], [0])])
    with pytest.raises(ValueError, match="1 records but 0 predictions"):
        evaluate("coco", [record], ["a", "b"], [])


def test_table_headline_and_primary() -> None:
    records = [make_record([(0, 0, 50, 50)], [0])]
    result = evaluate("coco", records, ["cat", "dog"], [make_prediction([(0, 0, 50, 50)], [0.9], [0])])
    lines = result.table().splitlines()
    assert lines[0].split() == ["class", *NAMES]
    assert lines[1].split() == ["cat", "1.000", "1.000", "1.000", "-", "1.000", "-", "1.000"]
    assert lines[2].split() == ["dog", *"-------"]
    assert lines[3].split() == ["mean", *lines[1].split()[1:]]
    assert result.headline() == "mAP 1.000  mAP50 1.000  mAP75 1.000"
    assert result.primary == 1.0
