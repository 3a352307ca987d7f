"""Records and predictions as the evaluators read them: checked, and one class at a time in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from eyas.types import EyasError, Prediction, Record

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassInImage:
    """Everything that concerns one class in one image. Boxes are (_, 4) xyxy in pixels of the image file.

    Attributes:
        objects: the ground truth.
        attributes: more per object, see `eyas.types.Record.attributes`.
        own_ignore: ignore regions of this class (difficult, crowd, neighbouring class).
        any_ignore: ignore regions of every class (DontCare).
        detections: in the order of the prediction.
        scores: one per detection.
    """

    objects: Array
    attributes: Mapping[str, Array]
    own_ignore: Array
    any_ignore: Array
    detections: Array
    scores: Array


def check(records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Raise ValueError when records and predictions do not pair up, `EyasError` on a prediction that cannot be scored.

    The latter is one with a label outside the class list (a detector of other classes) or with a number that is not
    finite (a detector that has diverged), and would otherwise be dropped or sorted at random without a word.
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
        if not (torch.isfinite(prediction["boxes"]).all() and torch.isfinite(prediction["scores"]).all()):
            raise EyasError(
                f"image {record.image_id}: a detection's box or score is not finite; the detector's weights have "
                "probably diverged: lower the learning rate, or load an earlier checkpoint"
            )


def of_class(records: Sequence[Record], predictions: Sequence[Prediction], label: int) -> list[ClassInImage]:
    """What concerns one class, image by image."""
    found = []
    for record, prediction in zip(records, predictions, strict=True):
        objects, detections = record.labels == label, prediction["labels"] == label
        found.append(
            ClassInImage(
                objects=array(record.boxes[objects]),
                attributes={name: array(values[objects]) for name, values in record.attributes.items()},
                own_ignore=array(record.ignore[record.ignore_labels == label]),
                any_ignore=array(record.ignore[record.ignore_labels == -1]),
                detections=array(prediction["boxes"][detections]),
                scores=array(prediction["scores"][detections]),
            )
        )
    return found


def array(tensor: torch.Tensor) -> Array:
    """A tensor, on any device, as float64."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def intersections(a: Array, b: Array) -> Array:
    """Areas of overlap of (n, 4) and (m, 4) boxes: (n, m), pixels."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.clip(sides, 0.0, None).prod(axis=-1)


def areas(boxes: Array) -> Array:
    """Areas of (n, 4) boxes: (n,), pixels."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of (n, 4) and (m, 4) boxes: (n, m) in [0, 1]; 0 where both have no area."""
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
