"""Records and predictions as the evaluators read them: checked, one class at a time, in float64; and box arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from eyas.types import EyasError, Prediction, Record

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ClassInImage:
    """Everything that concerns one class in one image.

    Attributes:
        objects: the ground truth of this class.
        attributes: further values per object, see `eyas.types.Record.attributes`.
        own_ignore: ignore regions of this class (difficult, crowd, neighbouring class).
        any_ignore: ignore regions of every class (DontCare).
        detections: of every class, in the order of the prediction.
        scores: one per detection.
        own: whether each detection is of this class.
    """

    objects: Array
    attributes: Mapping[str, Array]
    own_ignore: Array
    any_ignore: Array
    detections: Array
    scores: Array
    own: Flags


def check(records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Raise ValueError when records and predictions do not pair up, `EyasError` on a prediction that cannot be scored.

    A prediction cannot be scored with a label outside the class list (a detector of other classes) or with a number
    that is not finite (a detector that has diverged). It would otherwise be dropped silently, or sorted at random.
    """
    if len(records) != len(predictions):
        raise ValueError(f"{len(records)} records but {len(predictions)} predictions; entry i belongs to record i")
    if len(set(classes)) != len(classes):
        raise ValueError(f"class names must be distinct, got {', '.join(classes)}")
    for record, prediction in zip(records, predictions, strict=True):
        labels = prediction["labels"]
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if len(outside):
            raise EyasError(
                f"image {record.image_id}: a detection has label {int(outside[0])}, but the data set has "
                f"{len(classes)} classes ({', '.join(classes)}); evaluate a detector of the same classes"
            )
        check_finite(record, prediction)


def check_finite(record: Record, prediction: Prediction) -> None:
    """Raises EyasError for a box or score that is not finite."""
    if not (torch.isfinite(prediction["boxes"]).all() and torch.isfinite(prediction["scores"]).all()):
        raise EyasError(
            f"image {record.image_id}: a detection's box or score is not finite; the detector's weights have "
            "probably diverged: lower the learning rate, or load an earlier checkpoint"
        )


def by_class(
    records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> Iterator[tuple[str, list[ClassInImage]]]:
    """Each class with the images that have an object or a detection of it; errors as `check` raises them."""
    check(records, classes, predictions)
    # Converted once, since each class goes through all of them.
    found = [(array(one["boxes"]), array(one["scores"]), one["labels"].cpu().numpy()) for one in predictions]
    for label, name in enumerate(classes):
        images = [
            _of_class(record, label, boxes, scores, labels == label)
            for record, (boxes, scores, labels) in zip(records, found, strict=True)
            if label in record.labels or label in labels
        ]
        yield name, images


def _of_class(record: Record, label: int, detections: Array, scores: Array, own: Flags) -> ClassInImage:
    objects = record.labels == label
    return ClassInImage(
        objects=array(record.boxes[objects]),
        attributes={name: array(values[objects]) for name, values in record.attributes.items()},
        own_ignore=array(record.ignore[record.ignore_labels == label]),
        any_ignore=array(record.ignore[record.ignore_labels == -1]),
        detections=detections,
        scores=scores,
        own=own,
    )


def array(values: npt.NDArray[np.float32] | torch.Tensor) -> Array:
    """A record's array, or a prediction's tensor on any device, as float64."""
    return (values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values).astype(np.float64)


def intersections(a: Array, b: Array) -> Array:
    """Areas of overlap of (n, 4) and (m, 4) boxes: (n, m), pixels."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    found: Array = np.clip(sides, 0.0, None).prod(axis=-1)
    return found


def areas(boxes: Array) -> Array:
    """Areas of (n, 4) boxes: (n,), pixels."""
    found: Array = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    return found


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of (n, 4) and (m, 4) boxes: (n, m) in [0, 1]; 0 where both have no area."""
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
