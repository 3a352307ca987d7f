"""Detectors of other classes than the data's, matched by name."""

from __future__ import annotations

import pytest
import torch

from eyas.detectors.class_names import match_by_name, shared_classes
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


def test_shared_classes_have_the_order_of_the_data() -> None:
    assert shared_classes(KNOWN, ("dog", "owl", "person")) == ("dog", "person")
