"""The predictions of a detector, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eyas.types import EyasError, Prediction

FORM = "boxes (n, 4) xyxy in pixels, scores (n,) and labels (n,), which are whole numbers from 0"


def as_predictions(found: object, images: int, classes: Sequence[str], name: str) -> list[Prediction]:
    """Predictions with boxes and scores in float32 and labels in int64, on their device.

    Args:
        found: what ``predict`` returned for a batch.
        images: how many images it was given.
        classes: the detector's.
        name: the detector, for messages.

    Raises:
        EyasError: there is not one prediction for each image, or one is not of this form, or has a label that is none
            of the classes.
    """
    if not isinstance(found, Sequence) or len(found) != images:
        got = f"{len(found)} of them" if isinstance(found, Sequence) else f"a {type(found).__name__}"
        raise EyasError(f"{name} was given {images} images; predict returns a prediction for each, and not {got}")
    return [_as_prediction(one, classes, name) for one in found]


def _as_prediction(found: object, classes: Sequence[str], name: str) -> Prediction:
    parts = [found.get(key) for key in ("boxes", "scores", "labels")] if isinstance(found, Mapping) else []
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) < 3:
        kinds = ", ".join(type(part).__name__ for part in parts) or f"a {type(found).__name__}"
        raise EyasError(f"{name}: a prediction is a dictionary of tensors, {FORM}; got {kinds}")
    boxes, scores, labels = tensors
    if not boxes.numel() and labels.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (*labels.shape, 4) or scores.shape != labels.shape or labels.ndim != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in tensors)
        raise EyasError(f"{name}: a prediction has {FORM}; got {shapes}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise EyasError(f"{name}: a prediction has {FORM}; its labels are {labels.dtype}")
    labels = labels.long()
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if len(outside):
        raise EyasError(
            f"{name}: a detection has the label {int(outside[0])}, but the detector names {len(classes)} classes; "
            "labels count from 0"
        )
    return Prediction(boxes=boxes.float(), scores=scores.float(), labels=labels)
