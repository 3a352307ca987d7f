"""The confusion matrix of a detector at one score threshold: which class each object was taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eyas.evaluation.errors import MATCH, ignored_detections, kept_detections
from eyas.evaluation.inputs import Labels, array, check, overlaps
from eyas.types import Prediction, Record


def confusion_matrix(
    records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction], *, threshold: float
) -> Labels:
    """(K + 1, K + 1) counts: row i is what objects of class i were taken for, column j what is called class j.

    In descending order of score, each detection takes the free object that it overlaps most, with an IoU of at least
    0.5: first the detections that find an object of their own class (the correct ones of `eyas.evaluation.errors`),
    then the others. The last column counts the objects that no detection took, the last row the detections that took
    none, so row i sums to the objects of class i. Detections on ignore regions do not count.

    Args:
        records: the ground truth.
        classes: class names in label order.
        predictions: entry i belongs to record i: boxes in the frame of its image file, 0-based labels.
        threshold: lowest score of the detections that count.

    Raises:
        EyasError, ValueError: as `eyas.evaluation.evaluate`.
    """
    check(records, classes, predictions)
    counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for record, prediction in zip(records, predictions, strict=True):
        _count(counts, record, prediction, threshold)
    return counts


def _count(counts: Labels, record: Record, prediction: Prediction, threshold: float) -> None:
    """Add one image to the counts."""
    nothing, objects = len(counts) - 1, record.labels
    kept = kept_detections(prediction, threshold)
    boxes, labels = array(prediction["boxes"])[kept], prediction["labels"].cpu().numpy()[kept]
    iou, ignored = overlaps(boxes, array(record.boxes)), ignored_detections(record, boxes, labels)
    free = np.ones(len(objects), bool)
    rest = []
    for row, label in enumerate(labels):
        own = np.where(free & (objects == label), iou[row], 0.0)
        if own.max(initial=0.0) >= MATCH:
            free[own.argmax()] = False
            counts[label, label] += 1
        elif not ignored[row]:
            rest.append(row)
    for row in rest:
        other = np.where(free, iou[row], 0.0)
        taken = other.max(initial=0.0) >= MATCH
        counts[objects[other.argmax()] if taken else nothing, labels[row]] += 1
        if taken:
            free[other.argmax()] = False
    counts[:, nothing] += np.bincount(objects[free], minlength=len(counts))
