"""The VOC evaluator against hand-computed values and a plain transcription of the rules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eyas.evaluation import evaluate
from eyas.evaluation.voc import NAMES, area, eleven_point
from eyas.types import Prediction, Record
from helpers.evaluation_cases import make_prediction, make_record, random_case

BOX, OTHER, AWAY = (0, 0, 100, 100), (200, 0, 300, 100), (0, 200, 50, 250)


def score(records: list[Record], predictions: list[Prediction]) -> tuple[float, float]:
    result = evaluate("voc", records, ["a"], predictions)
    return result.summary["map_50"], result.summary["map_50_11"]


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> float:
    """The development kit's overlap of two 1-based boxes whose corner pixels are inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    sizes = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (sizes - width * height)


def naive(records: list[Record], predictions: list[Prediction], label: int) -> tuple[float, float]:
    """One detection at a time, in the kit's own coordinates, and the two averages point by point."""
    shift = np.array([1, 1, 0, 0])
    queue, truth, objects = [], [], 0
    for i, (record, prediction) in enumerate(zip(records, predictions, strict=True)):
        mine = [(box + shift, False) for box in record.boxes[record.labels == label].astype(float)]
        objects += len(mine)
        for of in (label, -1):
            mine += [(box + shift, True) for box in record.ignore[record.ignore_labels == of].astype(float)]
        truth.append(mine)
        for box, confidence, kind in zip(*(prediction[k] for k in ("boxes", "scores", "labels")), strict=True):
            if kind == label:
                queue.append((-float(confidence), i, box.double().numpy() + shift))
    queue.sort(key=lambda entry: entry[0])
    taken, recalls, precisions, true, false = set(), [], [], 0, 0
    for _, i, box in queue:
        best, which = -math.inf, None
        for j, (other, _) in enumerate(truth[i]):
            iou = inclusive_iou(box, other)
            if iou > best:
                best, which = iou, j
        if best >= 0.5 and truth[i][which][1]:
            continue
        if best >= 0.5 and (i, which) not in taken:
            taken.add((i, which))
            true += 1
        else:
            false += 1
        recalls.append(true / objects if objects else math.nan)
        precisions.append(true / (true + false))
    if objects == 0:
        return math.nan, math.nan
    by_area, before = 0.0, 0.0
    for k, recall in enumerate(recalls):
        by_area += (recall - before) * max(precisions[k:])
        before = recall
    levels = [[p for r, p in zip(recalls, precisions, strict=True) if r > t / 10 - 1e-9] for t in range(11)]
    return by_area, sum(max(level, default=0.0) for level in levels) / 11


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_plain_transcription_on_random_data(seed: int) -> None:
    records, predictions = random_case(seed, images=25)
    result = evaluate("voc", records, ["a", "b", "c", "without ground truth"], predictions)
    for label, name in enumerate(("a", "b", "c", "without ground truth")):
        expected = naive(records, predictions, label)
        assert list(result.per_class[name].values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert result.summary["map_50"] == pytest.approx(np.nanmean([v["map_50"] for v in result.per_class.values()]))
    assert 0.1 < result.summary["map_50"] < 1


def test_hand_computed_curve() -> None:
    # By falling score: true, false, true; a third object is missed. Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    records = [make_record([BOX, OTHER, AWAY], [0, 0, 0])]
    found = make_prediction([BOX, (400, 0, 450, 90), OTHER], [0.9, 0.8, 0.7], [0, 0, 0])
    # Levels 0 to 0.3 see precision 1, levels 0.4 to 0.6 see 2/3, the rest nothing.
    assert score(records, [found]) == pytest.approx((1 / 3 + 2 / 3 / 3, (4 * 1 + 3 * 2 / 3) / 11))


def test_a_recall_of_exactly_a_level_reaches_it() -> None:
    # Three of ten objects: 3/10 reaches level 0.3, which floating-point levels miss (3 * 0.1 > 0.3).
    true = np.array([True, True, True])
    assert eleven_point(true, 10) == pytest.approx(4 / 11)
    assert area(true, 10) == pytest.approx(0.3)
    assert eleven_point(np.ones(7, bool), 7) == area(np.ones(7, bool), 7) == 1.0


def test_duplicates_are_false_whichever_overlaps_more() -> None:
    records = [make_record([BOX, OTHER], [0, 0])]
    found = make_prediction([(0, 0, 100, 90), BOX, OTHER], [0.9, 0.8, 0.7], [0, 0, 0])
    assert score(records, [found])[0] == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_a_detection_goes_to_its_best_object_even_when_that_is_taken() -> None:
    # Both detections overlap the first object most; the second one would fit the other object with IoU 0.6.
    records = [make_record([BOX, (0, 0, 100, 60)], [0, 0])]
    found = make_prediction([BOX, (0, 0, 100, 100)], [0.9, 0.8], [0, 0])
    assert score(records, [found])[0] == pytest.approx(0.5)


@pytest.mark.parametrize(("bottom", "expected"), [(50, 1.0), (49, 0.0)])
def test_overlap_of_exactly_half_is_enough(bottom: int, expected: float) -> None:
    found = make_prediction([(0, 0, 100, bottom)], [0.9], [0])
    assert score([make_record([BOX], [0])], [found]) == pytest.approx((expected, expected))


def test_widths_are_those_of_inclusive_pixels() -> None:
    # The kit's (1, 1, 2, 2) is two pixels wide: with (2, 1, 3, 2) it shares 2 of 6 pixels; plain widths would give 0.
    a, b = np.array([1, 1, 2, 2]), np.array([2, 1, 3, 2])
    assert inclusive_iou(a, b) == pytest.approx(1 / 3)
    # With (1, 1, 2, 1) half: true. As 0-based boxes:
    assert score([make_record([(0, 0, 2, 2)], [0])], [make_prediction([(0, 0, 2, 1)], [0.9], [0])])[0] == 1.0


@pytest.mark.parametrize("label", [0, -1])
def test_difficult_objects_count_neither_way(label: int) -> None:
    records = [make_record([BOX], [0], [OTHER], [label])]
    # Two detections on the difficult one, both above the true one in score.
    found = make_prediction([OTHER, OTHER, BOX], [0.9, 0.8, 0.7], [0, 0, 0])
    assert score(records, [found]) == (1.0, 1.0)
    other_class = [make_record([BOX], [0], [OTHER], [1])]
    result = evaluate("voc", other_class, ["a", "b"], [found])
    assert result.per_class["a"]["map_50"] == pytest.approx(1 / 3)
    assert math.isnan(result.per_class["b"]["map_50"])


def test_scores_are_ranked_over_all_images() -> None:
    records = [make_record([BOX], [0], image_id="1"), make_record([BOX], [0], image_id="2")]
    predictions = [make_prediction([BOX], [0.3], [0]), make_prediction([AWAY, BOX], [0.5, 0.4], [0, 0])]
    # False, true, true.
    assert score(records, predictions)[0] == pytest.approx(2 / 3)


def test_empty_sides() -> None:
    assert score([make_record([BOX], [0])], [make_prediction()]) == (0.0, 0.0)
    for truth in ([make_record()], [make_record((), (), [BOX], [0])]):
        assert all(map(math.isnan, score(truth, [make_prediction([BOX], [0.9], [0])])))
    result = evaluate("voc", [], ["a"], [])
    assert list(result.summary) == list(NAMES) and math.isnan(result.primary)
    assert result.headline() == "mAP50 -  mAP50/11 -"
