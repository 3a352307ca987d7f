"""The confusion matrix on images that are counted by hand, and its sums on random ones."""

from __future__ import annotations

import numpy as np

from eyas.evaluation.confusion import confusion_matrix
from eyas.evaluation.errors import judge, totals
from helpers.evaluation_cases import make_prediction, make_record, random_case

A, B, C = (0, 0, 50, 50), (100, 0, 150, 50), (200, 0, 250, 50)


def test_by_hand() -> None:
    """Three objects a, b, b: one found, one called a, one missed. Two detections are on the background."""
    records = [make_record([A, B, C], [0, 1, 1], [(0, 200, 100, 300)], [-1])]
    boxes = [A, A, B, (300, 200, 350, 250), (10, 210, 90, 290)]
    found = make_prediction(boxes, [0.9, 0.8, 0.7, 0.6, 0.5], [0, 0, 0, 1, 1])
    counts = confusion_matrix(records, ("a", "b"), [found], threshold=0.3)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert confusion_matrix(records, ("a", "b"), [found], threshold=0.65)[2].tolist() == [1, 0, 0]


def test_the_object_goes_to_its_own_class_though_another_has_the_better_score() -> None:
    found = make_prediction([A, A], [0.9, 0.4], [1, 0])
    counts = confusion_matrix([make_record([A], [0])], ("a", "b"), [found], threshold=0.3)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_rows_sum_to_the_objects_and_the_diagonal_to_the_correct_detections() -> None:
    records, predictions = random_case(7, images=30)
    counts = confusion_matrix(records, ("a", "b", "c"), predictions, threshold=0.2)
    labels = np.concatenate([record.labels for record in records])
    assert counts[:3].sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    judged = [judge(*pair, threshold=0.2) for pair in zip(records, predictions, strict=True)]
    verdicts = totals(judged)[1]
    assert counts.trace() == verdicts["correct"]
    assert counts[:, :3].sum() == sum(verdicts.values()) - verdicts["ignored"]
    assert not confusion_matrix([], ("a",), [], threshold=0.2).any()
