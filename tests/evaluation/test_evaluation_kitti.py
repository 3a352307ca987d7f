"""The KITTI evaluator against hand-computed values and a plain loop over images, thresholds and objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eyas.evaluation import evaluate
from eyas.evaluation.kitti import NAMES, minimum_overlap, thresholds
from eyas.types import Prediction, Record
from helpers.evaluation_cases import make_prediction, make_record, random_case

CLASSES = ["Car", "Pedestrian", "Cyclist"]
HEIGHT, OCCLUSION, TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)


def boxes_in_a_row(count: int, height: float = 50) -> list[tuple[float, float, float, float]]:
    return [(100.0 * i, 10.0, 100.0 * i + 80, 10 + height) for i in range(count)]


def easy_40(records: list[Record], predictions: list[Prediction]) -> float:
    return evaluate("kitti", records, ["car"], predictions).summary["map_easy"]


# The reference.


def shared(a: np.ndarray, b: np.ndarray) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def size(box: np.ndarray) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def count(image: dict, level: int, minimum: float, threshold: float | None) -> tuple[list[float], int, int]:
    """One image at one threshold, or at none to gather scores: scores of the true, their number, the false."""
    state = ["low" if b[3] - b[1] < HEIGHT[level] else "own" if own else "other" for b, own in image["found"]]
    used, scores = set(), []
    for box, counts in image["truth"]:
        best = None
        for j, (found, _) in enumerate(image["found"]):
            iou = shared(box, found) / (size(box) + size(found) - shared(box, found))
            below = threshold is not None and image["scores"][j] < threshold
            if state[j] == "other" or j in used or below or iou <= minimum:
                continue
            own = state[j] == "own"
            key = (image["scores"][j],) if threshold is None else (own, iou if own else 0)
            if best is None or key > best[0]:
                best = key, j
        if best is not None:
            used.add(best[1])
            if counts and state[best[1]] == "own":
                scores.append(image["scores"][best[1]])
    false = 0
    for j, (found, _) in enumerate(image["found"]):
        if state[j] != "own" or j in used or (threshold is not None and image["scores"][j] < threshold):
            continue
        false += not any(shared(found, region) / size(found) > minimum for region in image["dont_care"])
    return scores, len(scores), false


def naive(records: list[Record], predictions: list[Prediction], label: int, level: int) -> tuple[float, float]:
    images, objects, minimum = [], 0, (0.7, 0.5, 0.5)[label]
    for record, prediction in zip(records, predictions, strict=True):
        truth = []
        for i in np.flatnonzero(record.labels == label):
            box = record.boxes[i].astype(float)
            counts = (
                box[3] - box[1] > HEIGHT[level]
                and record.attributes["occluded"][i] <= OCCLUSION[level]
                and round(float(record.attributes["truncated"][i]), 4) <= TRUNCATION[level]
            )
            objects += bool(counts)
            truth.append((box, counts))
        truth += [(box.astype(float), False) for box in record.ignore[record.ignore_labels == label]]
        images.append(
            {
                "truth": truth,
                "dont_care": [box.astype(float) for box in record.ignore[record.ignore_labels == -1]],
                "scores": prediction["scores"].tolist(),
                "found": [
                    (box.double().numpy(), kind == label)
                    for box, kind in zip(prediction["boxes"], prediction["labels"].tolist(), strict=True)
                ],
            }
        )
    if objects == 0:
        return math.nan, math.nan
    gathered = sorted((s for image in images for s in count(image, level, minimum, None)[0]), reverse=True)
    steps, target = [], 0.0
    for i, value in enumerate(gathered):
        left, right = (i + 1) / objects, (i + 2) / objects
        if i < len(gathered) - 1 and right - target < target - left:
            continue
        steps.append(value)
        target += 1 / 40
    precision = [0.0] * 41
    for k, threshold in enumerate(steps):
        results = [count(image, level, minimum, threshold) for image in images]
        true, false = sum(r[1] for r in results), sum(r[2] for r in results)
        precision[k] = true / (true + false)
    best = [max(precision[k:]) for k in range(41)]
    return sum(best[1:]) / 40, sum(best[::4]) / 11


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_plain_loop_on_random_data(seed: int) -> None:
    records, predictions = random_case(seed, images=40)
    result = evaluate("kitti", records, CLASSES, predictions)
    for label, name in enumerate(CLASSES):
        for level, difficulty in enumerate(("easy", "moderate", "hard")):
            figures = result.per_class[name]
            expected = naive(records, predictions, label, level)
            mine = figures[f"map_{difficulty}"], figures[f"map_{difficulty}_11"]
            assert mine == pytest.approx(expected, abs=1e-12, nan_ok=True), (name, difficulty)
    assert 0 < result.summary["map_hard"] < 1
    assert result.summary["map"] == result.summary["map_moderate"]


# Thresholds.


def test_eighty_objects_all_found_give_every_recall_step() -> None:
    scores = np.linspace(0.9, 0.1, 80)
    # The scores whose recall is nearest to 0, 1/40, 2/40, ...: the 1st, then every second one.
    np.testing.assert_array_equal(thresholds(scores[::-1], 80), scores[[0, *range(1, 80, 2)]])


def test_half_of_eighty_objects_reach_half_of_the_steps() -> None:
    scores = np.linspace(0.9, 0.1, 40)
    np.testing.assert_array_equal(thresholds(scores, 80), scores[[0, *range(1, 40, 2)]])
    assert len(thresholds(np.array([]), 80)) == 0


def test_the_last_score_is_a_threshold_even_before_the_next_step() -> None:
    # Steps of 4 objects: the second score is skipped, the third would be if a fourth, nearer one followed.
    np.testing.assert_array_equal(thresholds(np.array([0.9, 0.8, 0.7]), 160), [0.9, 0.7])


@pytest.mark.parametrize(("bottom", "expected"), [(60, 0.0), (61, 1.0)])
def test_overlap_must_exceed_the_minimum(bottom: int, expected: float) -> None:
    boxes = boxes_in_a_row(41, height=100)
    found = [(x1, y1, x2, bottom) for x1, y1, x2, _ in boxes]
    record, prediction = make_record(boxes, [0] * 41), make_prediction(found, [0.5] * 41, [0] * 41)
    assert evaluate("kitti", [record], ["cyclist"], [prediction]).summary["map_easy"] == expected


# Hand-computed.


def test_a_perfect_detector_of_few_objects() -> None:
    boxes = boxes_in_a_row(10)
    records = [make_record(boxes, [0] * 10)]
    found = [make_prediction(boxes, np.linspace(0.9, 0.1, 10), [0] * 10)]
    result = evaluate("kitti", records, ["car"], found)
    # Ten thresholds: the points 0 to 9, of which the 40-point mean leaves out the first and the other has 0, 4, 8.
    assert result.summary["map_easy"] == pytest.approx(9 / 40)
    assert result.summary["map_easy_11"] == pytest.approx(3 / 11)


def test_a_perfect_detector_of_many_objects() -> None:
    boxes = boxes_in_a_row(20)
    records = [make_record(boxes, [0] * 20, image_id=str(i)) for i in range(4)]
    found = [make_prediction(boxes, np.linspace(0.9, 0.1, 20), [0] * 20)] * 4
    summary = evaluate("kitti", records, ["car"], found).summary
    assert list(summary) == list(NAMES) and set(summary.values()) == {1.0}


def test_false_detections_above_and_below() -> None:
    # 4 images of 20 objects; one false detection per image scores above every true one: precision 80/84 at full
    # recall is the best, and holds for every point on its left.
    boxes = boxes_in_a_row(20)
    records = [make_record(boxes, [0] * 20, image_id=str(i)) for i in range(4)]
    found = [make_prediction([*boxes, (0, 200, 80, 250)], [*np.linspace(0.9, 0.1, 20), 0.95], [0] * 21)] * 4
    assert easy_40(records, found) == pytest.approx(80 / 84)
    below = [make_prediction([*boxes, (0, 200, 80, 250)], [*np.linspace(0.9, 0.1, 20), 0.05], [0] * 21)] * 4
    assert easy_40(records, below) == 1.0


def forty_one(extra: dict, found: list[tuple], scores: list[float], labels: list[int]) -> dict[str, float]:
    """41 cars, all found at 0.5, in one image, and something more at other scores: the figures of the class car."""
    boxes = boxes_in_a_row(41)
    record = make_record(boxes, [0] * 41, **extra)
    prediction = make_prediction([*boxes, *found], [0.5] * 41 + scores, [0] * 41 + labels)
    return evaluate("kitti", [record], CLASSES, [prediction]).per_class["Car"]


FALSE = (0.0, 200.0, 80.0, 250.0)


def test_41_objects_and_one_false_detection() -> None:
    assert forty_one({}, [], [], [])["map_easy"] == 1.0
    assert forty_one({}, [FALSE], [0.9], [0])["map_easy"] == pytest.approx(41 / 42)


@pytest.mark.parametrize(
    ("region", "label", "expected"),
    [
        ((0, 200, 80, 250), -1, 1.0),  # wholly on DontCare
        ((0, 200, 57, 250), -1, 1.0),  # 57/80 of it, above 0.7
        ((0, 200, 56, 250), -1, 41 / 42),  # exactly 0.7 is not above
        ((-500, 0, 900, 400), -1, 1.0),  # the region's size is of no account for DontCare
        ((0, 200, 80, 250), 0, 1.0),  # a neighbouring class, as a van, found as a car
        ((-500, 0, 900, 400), 0, 41 / 42),  # ... has to overlap by IoU
        ((0, 200, 80, 250), 1, 41 / 42),  # a neighbour of pedestrians
    ],
)
def test_ignore_regions(region: tuple, label: int, expected: float) -> None:
    extra = {"ignore": [region], "ignore_labels": [label]}
    assert forty_one(extra, [FALSE], [0.9], [0])["map_easy"] == pytest.approx(expected)


def test_a_neighbour_excuses_one_detection_and_a_dont_care_region_any_number() -> None:
    two = [FALSE, (1.0, 200.0, 81.0, 250.0)]
    neighbour = {"ignore": [FALSE], "ignore_labels": [0]}
    assert forty_one(neighbour, two, [0.9, 0.9], [0, 0])["map_easy"] == pytest.approx(41 / 42)
    dont_care = {"ignore": [FALSE], "ignore_labels": [-1]}
    assert forty_one(dont_care, two, [0.9, 0.9], [0, 0])["map_easy"] == 1.0


@pytest.mark.parametrize(("height", "easy", "moderate"), [(39, 1.0, 41 / 42), (24, 1.0, 1.0), (41, 41 / 42, 41 / 42)])
def test_detections_below_the_minimum_height_are_ignored(height: float, easy: float, moderate: float) -> None:
    figures = forty_one({}, [(0, 200, 80, 200 + height)], [0.9], [0])
    assert (figures["map_easy"], figures["map_moderate"]) == pytest.approx((easy, moderate))


@pytest.mark.parametrize(
    ("height", "occluded", "truncated", "levels"),
    [
        (40.5, 0, 0.15, {"easy", "moderate", "hard"}),
        (40.0, 0, 0.0, {"moderate", "hard"}),
        (26.0, 0, 0.0, {"moderate", "hard"}),
        (25.0, 0, 0.0, set()),
        (60.0, 1, 0.3, {"moderate", "hard"}),
        (60.0, 0, 0.16, {"moderate", "hard"}),
        (60.0, 2, 0.0, {"hard"}),
        (60.0, 0, 0.5, {"hard"}),
        (60.0, 3, 0.0, set()),
        (60.0, 0, 0.51, set()),
    ],
)
def test_which_objects_a_difficulty_counts(height: float, occluded: int, truncated: float, levels: set[str]) -> None:
    # As float32 numbers 100.02 and 140.02 are 40.000008 apart; the height still is 40.00, as written.
    record = make_record(
        [(0, 100.02, 80, 100.02 + height)], [0],
        occluded=torch.tensor([float(occluded)]), truncated=torch.tensor([truncated]),
    )  # fmt: skip
    figures = evaluate("kitti", [record], ["Car"], [make_prediction()]).summary
    assert {level for level in ("easy", "moderate", "hard") if not math.isnan(figures[f"map_{level}"])} == levels


def test_a_detection_as_high_as_the_limit_is_not_low() -> None:
    """In float32, 231.02 and 256.02 are 24.99998 apart; a low detection would leave the object unfound."""
    record = make_record([(100 * i, 230.0, 100 * i + 80, 256.5) for i in range(41)], [0] * 41)
    found = [(100 * i, 231.02, 100 * i + 80, 256.02) for i in range(41)]
    assert found[0][3] - found[0][1] < 25 + 1e-9
    figures = evaluate("kitti", [record], ["car"], [make_prediction(found, [0.9] * 41, [0] * 41)]).summary
    assert figures["map_moderate"] == figures["map_hard"] == 1.0


def test_objects_beyond_a_difficulty_are_neither_missed_nor_found() -> None:
    boxes = [*boxes_in_a_row(41), FALSE]
    occluded = torch.tensor([0.0] * 41 + [1.0])
    record = make_record(boxes, [0] * 42, occluded=occluded)
    found = make_prediction(boxes, [0.5] * 41 + [0.9], [0] * 42)
    figures = evaluate("kitti", [record], ["car"], [found]).summary
    assert figures["map_easy"] == figures["map_moderate"] == 1.0
    missed = make_prediction(boxes[:41], [0.5] * 41, [0] * 41)
    assert evaluate("kitti", [record], ["car"], [missed]).summary["map_easy"] == 1.0


def test_a_low_detection_of_another_class_takes_its_object_out_of_the_count() -> None:
    # The kit looks at the height before the class. Five cars 50 px high, all found; on the first lies a cyclist 36 px
    # high (IoU 0.72), with a higher score: when scores are gathered the car takes it, and one threshold is lost.
    cars = [FALSE, *boxes_in_a_row(4)]
    record, low, high = make_record(cars, [0] * 5), (0, 200, 80, 236), (0, 200, 80, 241)
    for other, points in ((low, 3), (high, 4)):
        found = make_prediction([*cars, other], [0.5] * 5 + [0.9], [0] * 5 + [2])
        figures = evaluate("kitti", [record], CLASSES, [found]).per_class["Car"]
        assert figures["map_easy"] == pytest.approx(points / 40)


def test_minimum_overlap_by_class_name() -> None:
    assert [minimum_overlap(name) for name in ("Car", "car", "CAR", "Pedestrian", "cyclist", "tram")] == [
        0.7, 0.7, 0.7, 0.5, 0.5, 0.5
    ]  # fmt: skip
    boxes = boxes_in_a_row(41, height=100)
    found = [(x1, y1, x2, y1 + 60) for x1, y1, x2, _ in boxes]
    record = make_record(boxes * 2, [0] * 41 + [1] * 41)
    prediction = make_prediction(found * 2, [0.5] * 82, [0] * 41 + [1] * 41)
    per_class = evaluate("kitti", [record], ["car", "cyclist"], [prediction]).per_class
    assert (per_class["car"]["map_easy"], per_class["cyclist"]["map_easy"]) == (0.0, 1.0)


def test_empty_sides() -> None:
    record = make_record([(0, 0, 80, 50)], [0])
    assert set(evaluate("kitti", [record], ["car"], [make_prediction()]).summary.values()) == {0.0}
    for records, found in (
        ([], []),
        ([make_record()], [make_prediction()]),
        ([make_record()], [make_prediction([FALSE], [0.5], [0])]),
    ):
        assert all(map(math.isnan, evaluate("kitti", records, ["car"], found).summary.values()))
