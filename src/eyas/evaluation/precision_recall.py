"""Precision-recall curves at IoU 0.5, by the rules of the PASCAL VOC kit; `eyas.evaluation.voc` has the matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eyas.evaluation import voc
from eyas.evaluation.inputs import Array, Flags, by_class
from eyas.types import Prediction, Record

POINTS = 101
"""Recall 0, 0.01, ..., 1."""


def curves(
    records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> dict[str, Array | None]:
    """Class name -> `curve`; arguments and errors as for `eyas.evaluation.evaluate`."""
    return {name: curve(*voc.verdicts(images)) for name, images in by_class(records, classes, predictions)}


def curve(true: Flags, objects: int) -> Array | None:
    """(101,): `voc.curve` of verdicts by descending score; None without objects."""
    return voc.curve(true, objects, POINTS) if objects else None


def mean_curve(by_class: Mapping[str, Array | None]) -> Array | None:
    """(101,): the mean over the classes that have objects; None where none has."""
    known = [values for values in by_class.values() if values is not None]
    return np.mean(known, axis=0) if known else None
