"""Precision-recall curves at IoU 0.5, by the rules of the PASCAL VOC kit; `eyas.evaluation.voc` has the matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eyas.evaluation.inputs import Array, Flags, check, of_class, to_arrays
from eyas.evaluation.voc import verdicts
from eyas.types import Prediction, Record

POINTS = 101
"""Recall 0, 0.01, ..., 1."""


def curves(
    records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> dict[str, Array | None]:
    """Class name -> (101,) precision; None for a class without objects.

    Args:
        records: the ground truth.
        classes: class names in label order.
        predictions: entry i belongs to record i, in the frame of its image file.

    Raises:
        ValueError: records and predictions differ in number.
        EyasError: a label outside the class list, or a box or score that is not finite.
    """
    check(records, classes, predictions)
    images = to_arrays(records, predictions)
    return {name: curve(*verdicts(of_class(images, label))) for label, name in enumerate(classes)}


def curve(true: Flags, objects: int) -> Array | None:
    """(101,): the best precision at each recall or a higher one, 0 where none gets there; None without objects.

    Args:
        true: whether each detection is true, by falling score.
        objects: the number of objects.
    """
    if objects == 0:
        return None
    found = np.cumsum(true)
    precision = found / np.arange(1, len(true) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # In integers: found / objects >= step / 100.
    return np.asarray(envelope[np.searchsorted((POINTS - 1) * found, np.arange(POINTS) * objects)], dtype=np.float64)


def mean_curve(by_class: Mapping[str, Array | None]) -> Array | None:
    """(101,): the mean over the classes that have objects; None where none has."""
    known = [values for values in by_class.values() if values is not None]
    return np.mean(known, axis=0) if known else None
