"""The PASCAL VOC detection metrics.

Everingham et al., *The PASCAL Visual Object Classes Challenge: A Retrospective*, IJCV 2015; the rules are those of the
development kit's ``VOCevaldet.m`` and ``VOCap.m``. In each image and class, each detection, by descending score, goes
to the object it overlaps most. It is true when that IoU is at least 0.5 and no earlier one took the object, and false
when an earlier one did (a duplicate) or the IoU is lower; a detection that goes to a difficult object is neither.

The kit's boxes are 1-based with both corner pixels inside, so that its widths are ``xmax - xmin + 1``. Boxes here are
``(xmin - 1, ymin - 1, xmax, ymax)``, 0-based and continuous, so the same width is the plain difference and every IoU is
the kit's. Two things differ from it in rare cases: at equal overlaps an object takes precedence over a difficult one
(the kit takes the first in the file), and the eleven recall levels are compared exactly, where MATLAB's ``0:0.1:1``
misses a recall of exactly 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eyas.evaluation.inputs import Array, ClassInImage, Flags, by_class, overlaps
from eyas.evaluation.result import EvaluationResult, summarise
from eyas.types import Prediction, Record

FORMATS = ("voc",)
LEAVES_OUT = "difficult objects"
NAMES = ("map_50", "map_50_11")
"""AP at IoU 0.5: the area under the curve (VOC 2010 on), and the mean over eleven recall levels (VOC 2007)."""

MIN_OVERLAP = 0.5


def evaluate(records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]) -> EvaluationResult:
    """VOC's metrics; arguments and errors as for `eyas.evaluation.evaluate`.

    Ignore regions are difficult objects: of their class, or of every class. A class with no other objects has NaN.
    """
    per_class = {}
    for name, images in by_class(records, classes, predictions):
        true, objects = verdicts(images)
        per_class[name] = {"map_50": area(true, objects), "map_50_11": eleven_point(true, objects)}
    return summarise("voc", per_class, NAMES)


def verdicts(images: Sequence[ClassInImage]) -> tuple[Flags, int]:
    """Whether each detection of a class that counts is true, best score first over all images; the number of objects.

    Equal scores keep the order of the images and of the detections in them.
    """
    matched = [_match(image) for image in images]
    scores = np.concatenate([np.empty(0), *(image.scores[image.own] for image in images)])
    true = np.concatenate([np.empty(0, bool), *(true for true, _ in matched)])
    counts = np.concatenate([np.empty(0, bool), *(counts for _, counts in matched)])
    order = np.argsort(-scores, kind="stable")
    return true[order][counts[order]], sum(len(image.objects) for image in images)


def area(true: Flags, objects: int) -> float:
    """The area under the precision-recall curve, precision being the best at that recall or a higher one.

    Args:
        true: verdicts by descending score.
        objects: the number of objects; 0 gives NaN.
    """
    if objects == 0:
        return float("nan")
    # The recall rises by 1/objects at each true detection, and only there.
    return float(_envelope(true)[true].sum() / objects)


def eleven_point(true: Flags, objects: int) -> float:
    """The mean of `curve` over recall 0, 0.1, ..., 1; arguments as for `area`."""
    return float(curve(true, objects, 11).mean()) if objects else float("nan")


def curve(true: Flags, objects: int, points: int) -> Array:
    """(points,): the best precision at recall 0, ..., 1 or a higher one, 0 where none gets there. Needs an object."""
    # In integers: found / objects >= step / (points - 1).
    first = np.searchsorted((points - 1) * np.cumsum(true), np.arange(points) * objects)
    return np.append(_envelope(true), 0.0)[first]


def _envelope(true: Flags) -> Array:
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _match(image: ClassInImage) -> tuple[Flags, Flags]:
    """Two (D,) bool of the class's detections: true; counted, that is, not matched to a difficult object."""
    detections, scores = image.detections[image.own], image.scores[image.own]
    true = np.zeros(len(detections), bool)
    boxes = np.concatenate((image.objects, image.own_ignore, image.any_ignore))
    if len(boxes) == 0:
        return true, ~true
    iou = overlaps(detections, boxes)
    best = iou.argmax(axis=1)
    hit = iou.max(axis=1) >= MIN_OVERLAP
    difficult = best >= len(image.objects)
    order = np.argsort(-scores, kind="stable")
    takers = order[(hit & ~difficult)[order]]
    _, first = np.unique(best[takers], return_index=True)
    true[takers[first]] = True
    return true, ~(hit & difficult)
