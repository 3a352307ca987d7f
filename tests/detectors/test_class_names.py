"""Detectors of other classes than the data's, matched by name."""

from __future__ import annotations

import pytest
import torch

from eyas.detectors.class_names import as_names, match_by_name, shared_classes
from eyas.detectors.prediction_checks import as_predictions
from eyas.types import EyasError, Prediction
from helpers.toys import seeded

KNOWN = ("N/A", "person", "N/A", "car", "dog")


def answering(labels: list[int]) -> object:
    """A detector of `KNOWN` whose every prediction has these labels, with scores from 0.9 downwards."""
    detector = seeded(0)
    detector.classes = KNOWN
    scores = torch.tensor([0.9 - 0.1 * rank for rank in range(len(labels))])
    boxes = torch.arange(4.0 * len(labels)).reshape(-1, 4)
    detector.predict = lambda images: [Prediction(boxes=boxes, scores=scores, labels=torch.tensor(labels))]
    return detector


def test_labels_are_translated_by_name_and_others_dropped() -> None:
    matched = match_by_name(answering([0, 3, 1, 4, 2, 3]), ("dog", "car"), "teacher")  # type: ignore[arg-type]
    (found,) = matched.predict(torch.zeros(1, 3, 8, 8))
    assert found["labels"].tolist() == [1, 0, 1]
    assert found["scores"].tolist() == pytest.approx([0.8, 0.6, 0.4])
    assert found["boxes"][:, 0].tolist() == [4.0, 12.0, 20.0]
    assert matched.classes == ("dog", "car")


def test_the_same_classes_need_no_translation() -> None:
    detector = answering([1])
    assert match_by_name(detector, KNOWN, "teacher") is detector  # type: ignore[arg-type]


def test_a_detector_that_shares_no_class_is_refused() -> None:
    with pytest.raises(EyasError, match=r"mine:make and the data share no class name:\n  detector: N/A, person"):
        match_by_name(answering([1]), ("bolt",), "mine:make")  # type: ignore[arg-type]


def test_a_label_beyond_the_classes_is_refused() -> None:
    matched = match_by_name(answering([1, 5]), ("car",), "teacher")  # type: ignore[arg-type]
    with pytest.raises(EyasError, match=r"label 5, but the detector names 5 classes"):
        matched.predict(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": torch.tensor([1.0, 3.0])}, r"its labels are torch\.float32"),
        ({"labels": torch.tensor([True, True])}, r"its labels are torch\.bool"),
        ({"labels": torch.tensor([1, 1, 1])}, r"boxes \(n, 4\) .*; got \(2, 4\), \(2,\), \(3,\)"),
        ({"boxes": torch.zeros(2, 5)}, r"got \(2, 5\), \(2,\), \(2,\)"),
        ({"scores": [0.5, 0.4]}, "a dictionary of tensors, .*; got Tensor, list, Tensor"),
        ({"labels": torch.tensor([-1, 1])}, "has the label -1, but the detector names 5 classes; labels count from 0"),
    ],
)
def test_a_prediction_of_another_form_is_refused(change: dict[str, object], said: str) -> None:
    good = {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": torch.tensor([1, 3])}
    with pytest.raises(EyasError, match=f"^mine: .*{said}"):
        as_predictions([{**good, **change}], 1, KNOWN, "mine")
    for found, got in (([good], "1 of them"), (None, "a NoneType"), ([[], []], "got a list")):
        with pytest.raises(EyasError, match=got):
            as_predictions(found, 2, KNOWN, "mine")


def test_predictions_get_one_form() -> None:
    """Indices of eight bits would choose as a mask does, and whole numbers as boxes have no room for a scale."""
    given = {
        "boxes": torch.tensor([[1, 2, 3, 4]]),
        "scores": torch.tensor([0.5]).bfloat16(),
        "labels": torch.tensor([3], dtype=torch.uint8),
    }
    nothing = {"boxes": torch.zeros(0), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    one, none = as_predictions([given, nothing], 2, KNOWN, "mine")
    assert [one[key].dtype for key in ("boxes", "scores", "labels")] == [torch.float32, torch.float32, torch.int64]
    assert none["boxes"].shape == (0, 4)
    detector = answering([1])
    detector.predict = lambda images: [given]  # type: ignore[attr-defined]
    matched = match_by_name(detector, ("dog", "car"), "teacher")  # type: ignore[arg-type]
    assert matched.predict(torch.zeros(1, 3, 8, 8))[0]["labels"].tolist() == [1]


def test_names_in_label_order() -> None:
    assert as_names({1: "blue", 0: "red"}) == as_names(["red", "blue"]) == ("red", "blue")
    for classes, said in (
        ("ab", "for one class write"),
        ({"b", "a"}, "got {"),
        ({1: "a"}, "count from 0"),
        ([1, 2], "got"),
    ):
        with pytest.raises(EyasError, match=said):
            as_names(classes)  # type: ignore[arg-type]


def test_shared_classes_have_the_order_of_the_data() -> None:
    assert shared_classes(KNOWN, ("dog", "owl", "person")) == ("dog", "person")
