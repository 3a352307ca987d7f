"""Verdicts on boxes and precision-recall curves, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyas.evaluation import voc
from eyas.evaluation.errors import JudgedImage, confusions, judge, ranked, totals
from eyas.evaluation.precision_recall import curve, curves, mean_curve
from eyas.types import Prediction, Record
from helpers.evaluation_cases import make_record

Box = tuple[float, float, float, float]
A: Box = (0, 0, 10, 10)
FAR: Box = (200, 200, 210, 210)


def record(*objects: tuple[Box, int], ignore: tuple[tuple[Box, int], ...] = ()) -> Record:
    (boxes, labels), (regions, concerned) = (([b for b, _ in rows], [k for _, k in rows]) for rows in (objects, ignore))
    return make_record(boxes, labels, regions, concerned)


def found(*rows: tuple[Box, int, float]) -> Prediction:
    return {
        "boxes": torch.tensor([box for box, _, _ in rows]).view(-1, 4).float(),
        "labels": torch.tensor([label for _, label, _ in rows]).long(),
        "scores": torch.tensor([score for _, _, score in rows]).float(),
    }


def shifted(pixels: float) -> Box:
    """A, moved to the right: its IoU with A is (10 - p) / (10 + p)."""
    return (pixels, 0, 10 + pixels, 10)


@pytest.mark.parametrize(
    ("box", "label", "verdict", "outcome"),
    [
        (A, 0, "correct", "found"),
        ((0, 0, 10, 5), 0, "correct", "found"),  # IoU 50 / 100 is 0.5, which is enough
        ((0, 0, 10, 4.9), 0, "localisation", "localisation"),
        (shifted(5), 0, "localisation", "localisation"),  # 5 / 15
        ((0, 0, 10, 1), 0, "localisation", "localisation"),  # 0.1 is enough
        ((0, 0, 10, 0.9), 0, "false", "missed"),
        (FAR, 0, "false", "missed"),
        (A, 1, "class", "class"),
        ((0, 0, 10, 5), 1, "class", "class"),
        (shifted(5), 1, "false", "missed"),  # neither the class nor the place
    ],
)
def test_one_detection_of_one_object(box: Box, label: int, verdict: str, outcome: str) -> None:
    judged = judge(record((A, 0)), found((box, label, 0.9)), threshold=0.3)
    assert (judged.verdicts, judged.outcomes) == ((verdict,), (outcome,))
    assert judged.confusions == (((0, 1),) if verdict == "class" else ())


def test_the_better_detection_takes_the_object_whatever_the_order() -> None:
    judged = judge(record((A, 0)), found((shifted(1), 0, 0.5), (shifted(2), 0, 0.8)), threshold=0.3)
    assert judged.kept == (1, 0)
    assert judged.verdicts == ("correct", "duplicate")
    assert (judged.found, judged.wrong, judged.score) == (1, 1, 0.5)


def test_a_second_detection_goes_to_a_free_object_before_it_is_a_duplicate() -> None:
    near = shifted(2)
    judged = judge(record((A, 0), (near, 0)), found((A, 0, 0.9), (A, 0, 0.8)), threshold=0.3)
    assert judged.verdicts == ("correct", "correct"), "IoU of 8 / 12 with the other one"
    judged = judge(record((A, 0), (FAR, 0)), found((A, 0, 0.9), (A, 0, 0.8)), threshold=0.3)
    assert (judged.verdicts, judged.outcomes) == (("correct", "duplicate"), ("found", "missed"))


def test_the_order_of_the_kinds_is_that_of_tide() -> None:
    """A detection that is badly placed on its own class and well on another is the first; on a taken object of its own
    class and well on another, of the wrong class."""
    wide: Box = (0, 0, 100, 100)
    both = record(((0, 0, 40, 100), 0), ((0, 0, 90, 100), 1))
    judged = judge(both, found((wide, 0, 0.9)), threshold=0.3)
    assert (judged.verdicts, judged.outcomes) == (("localisation",), ("localisation", "missed"))
    same = record((A, 0), (A, 1))
    assert judge(same, found((A, 0, 0.9), (A, 0, 0.8)), threshold=0.3).verdicts == ("correct", "class")
    assert judge(record((A, 0)), found((A, 0, 0.9), (A, 0, 0.8)), threshold=0.3).verdicts == ("correct", "duplicate")


def test_low_scores_are_not_judged() -> None:
    judged = judge(record((A, 0)), found((A, 0, 0.29), (FAR, 0, 0.31)), threshold=0.3)
    assert (judged.kept, judged.verdicts, judged.outcomes) == ((1,), ("false",), ("missed",))
    assert judge(record((A, 0)), found((A, 0, 0.25)), threshold=0.25).outcomes == ("found",), "at least the threshold"


def test_a_found_object_stays_found_when_it_is_confused_as_well() -> None:
    judged = judge(record((A, 0)), found((A, 1, 0.9), (A, 0, 0.5)), threshold=0.3)
    assert (judged.verdicts, judged.outcomes) == (("class", "correct"), ("found",))


@pytest.mark.parametrize(("concerns", "verdict"), [(-1, "ignored"), (0, "ignored"), (1, "false")])
def test_ignore_regions(concerns: int, verdict: str) -> None:
    truth = record((A, 0), ignore=(((195, 195, 206, 220), concerns),))
    judged = judge(truth, found((FAR, 0, 0.9)), threshold=0.3)
    assert judged.verdicts == (verdict,), "6 of its 10 columns lie on the region"
    half = judge(record((A, 0), ignore=(((195, 195, 205, 220), -1),)), found((FAR, 0, 0.9)), threshold=0.3)
    assert half.verdicts == ("false",), "half is not more than half"
    on_object = judge(record((A, 0), ignore=(((0, 0, 20, 20), -1),)), found((A, 0, 0.9)), threshold=0.3)
    assert on_object.verdicts == ("correct",)


def test_nothing_there_and_nothing_found() -> None:
    empty = judge(record(), found(), threshold=0.3)
    assert (empty.verdicts, empty.outcomes, empty.score) == ((), (), None)
    assert judge(record(), found((A, 0, 0.9)), threshold=0.3).verdicts == ("false",)
    assert judge(record((A, 0)), found(), threshold=0.3).outcomes == ("missed",)


def test_totals_add_up_to_the_objects_and_the_detections() -> None:
    random = np.random.default_rng(0)
    images, objects, detections = [], 0, 0
    for _ in range(30):
        corners = random.uniform(0, 20, (6, 2))
        boxes = [(x, y, x + 8, y + 8) for x, y in corners.tolist()]
        labels = random.integers(0, 2, 6).tolist()
        truth = record(*zip(boxes[:3], labels[:3], strict=True))
        said = found(*zip(boxes[3:], labels[3:], random.uniform(0.3, 1, 3).tolist(), strict=True))
        images.append(judge(truth, said, threshold=0.3))
        objects, detections = objects + 3, detections + 3
    outcomes, verdicts = totals(images)
    assert (outcomes.total(), verdicts.total()) == (objects, detections)
    assert outcomes["found"] == verdicts["correct"]
    assert outcomes["localisation"] <= verdicts["localisation"] and outcomes["class"] <= verdicts["class"]
    assert confusions(images).total() == verdicts["class"] > 0


def test_images_from_best_to_worst() -> None:
    def image(found: int, missed: int, false: int) -> JudgedImage:
        return JudgedImage((), ("correct",) * found + ("false",) * false, ("found",) * found + ("missed",) * missed, ())

    images = [image(0, 1, 0), image(2, 0, 0), image(1, 1, 0), image(0, 0, 0), image(3, 0, 0), image(0, 2, 3)]
    assert ranked(images) == [4, 1, 2, 0, 5], "the empty image is left out"


# Precision and recall ----------------------------------------------------------------------------------------------


def test_a_curve_by_hand() -> None:
    """Two of four objects found: true, false, true. Precision 1 up to recall 1/4, 2/3 up to 1/2, then 0."""
    values = curve(np.array([True, False, True]), 4)
    assert values is not None
    assert values[:26] == pytest.approx(1)
    assert values[26:51] == pytest.approx(2 / 3)
    assert values[51:] == pytest.approx(0)
    assert curve(np.array([False]), 0) is None
    nothing = curve(np.zeros(0, bool), 3)
    assert nothing is not None and not nothing.any()


def test_the_mean_of_a_curve_is_near_the_average_precision() -> None:
    random = np.random.default_rng(1)
    records, said = [], []
    for _ in range(40):
        boxes = [(x, 0, x + 10, 10) for x in (0, 30, 60)]
        records.append(record(*((box, 0) for box in boxes)))
        moved = [((x + random.uniform(0, 6), 0, x + 10, 10), 0, random.uniform(0, 1)) for x, *_ in boxes]
        said.append(found(*moved))
    by_class = curves(records, ["a", "b"], said)
    assert by_class["b"] is None
    mean = mean_curve(by_class)
    assert mean is not None
    assert mean.mean() == pytest.approx(voc.evaluate(records, ["a", "b"], said).summary["map_50"], abs=0.01)
    assert mean_curve({"b": None}) is None
