"""The KITTI 2D object detection metrics.

Geiger et al., *Are we ready for Autonomous Driving?*, CVPR 2012; the rules are those of the development kit's
``evaluate_object.cpp`` (2D boxes), with 40 recall points since 2019 (Simonelli et al., *Disentangling Monocular 3D
Object Detection*, ICCV 2019) and 11 before. Each of the three difficulties ignores the objects beyond it: whether
they are found or missed does not count.

Four rules of the kit to know:

- The curve is sampled at score thresholds, one for every 1/40 of recall, and is 0 beyond the last. With fewer than
  41 objects even a perfect detector stays below 1: 10 objects give 9/40. Use COCO's metric on small data sets.
- A detection lower than the difficulty's minimum height is ignored **before** its class is looked at; one of another
  class that overlaps an object enough removes it from the count, unless a better detection takes it.
- DontCare regions take the false detections whose intersection with them, over the detection's own area, exceeds the
  class's minimum overlap.
- Widths are plain differences, without the one pixel that VOC adds.

Where this differs from the kit:

- Heights are those written, to a thousandth of a pixel: an object of 25.00 pixels is not above 25. The kit subtracts
  doubles, so it depends on the coordinates whether such an object counts (150.02 - 125.02 is 25.000000000000007).
- A class without an object of a difficulty has no AP, NaN, and is left out of the mean; the kit's is 0.
- The kit goes through objects and neighbouring-class objects in the order of the file; a record keeps them apart, so
  here the objects choose first.

The older kit, with which the FGFI paper's figures were made, ignores objects *below* the minimum height, and counts low
detections as false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyas.evaluation.inputs import Array, ClassInImage, Flags, Labels, areas, by_class, intersections, overlaps
from eyas.evaluation.result import EvaluationResult, summarise
from eyas.types import Prediction, Record

FORMATS = ("kitti",)
LEAVES_OUT = "objects at most 25 pixels high, largely occluded, or truncated by more than 30 % (--metric coco does not)"
NAMES = (
    "map", "map_easy", "map_moderate", "map_hard",
    "map_easy_11", "map_moderate_11", "map_hard_11",
)  # fmt: skip
"""AP by difficulty, over 40 and over 11 recall points. "map" is the moderate one over 40, by which KITTI ranks."""

POINTS = 41
"""Recall 0, 1/40, ..., 1; the mean over 40 points leaves out the first, the mean over 11 takes every fourth."""


@dataclass(frozen=True)
class Limits:
    """The bounds of a difficulty: least height (exclusive, pixels), largest occlusion level and truncation."""

    height: float
    occluded: float
    truncated: float


LIMITS = {"easy": Limits(40, 0, 0.15), "moderate": Limits(25, 1, 0.30), "hard": Limits(25, 2, 0.50)}


@dataclass(frozen=True, eq=False)
class ImageOverlaps:
    """One class in one image: G objects and neighbours, D detections of all classes.

    Attributes:
        overlap: (D, G) IoU, above the class's minimum, else 0.
        own: (D,) the detection is of this class.
        on_dont_care: (D,) the detection lies on a DontCare region.
        heights: (D,) pixels, of detections.
        object_heights, occluded, truncated: (G,); the neighbours, last, have height 0, so that they are ignored always.
    """

    overlap: Array
    scores: Array
    own: Flags
    on_dont_care: Flags
    heights: Array
    object_heights: Array
    occluded: Array
    truncated: Array


def evaluate(records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]) -> EvaluationResult:
    """KITTI's metrics; arguments and errors as for `eyas.evaluation.evaluate`.

    An ignore region of label -1 is DontCare, one of a class is an object of a neighbouring class (a van, for cars).
    Objects without ``occluded`` or ``truncated`` count as fully visible. A class without an object of a difficulty has
    NaN there.
    """
    per_class = {}
    for name, images in by_class(records, classes, predictions):
        found = [image_overlaps(image, minimum_overlap(name)) for image in images]
        curves = {difficulty: curve(found, limits) for difficulty, limits in LIMITS.items()}
        by_40 = {f"map_{difficulty}": float(points[1:].mean()) for difficulty, points in curves.items()}
        by_11 = {f"map_{difficulty}_11": float(points[::4].mean()) for difficulty, points in curves.items()}
        per_class[name] = {"map": by_40["map_moderate"], **by_40, **by_11}
    return summarise("kitti", per_class, NAMES)


def minimum_overlap(name: str) -> float:
    """The IoU that a detection of a class must exceed: 0.7 for cars, 0.5 for every other class."""
    return 0.7 if name.lower() == "car" else 0.5


def image_overlaps(image: ClassInImage, minimum: float) -> ImageOverlaps:
    """The overlaps of one class, whose minimum IoU is given, in one image."""
    found, neighbours = image.detections, len(image.own_ignore)
    iou = overlaps(found, np.concatenate((image.objects, image.own_ignore)))
    on_dont_care = intersections(found, image.any_ignore) > minimum * areas(found)[:, None]
    none = np.zeros(len(image.objects))
    return ImageOverlaps(
        overlap=np.where(iou > minimum, iou, 0.0),
        scores=image.scores,
        own=image.own,
        on_dont_care=np.asarray(on_dont_care.any(axis=1)),
        heights=_heights(found),
        object_heights=np.pad(_heights(image.objects), (0, neighbours)),
        occluded=np.pad(image.attributes.get("occluded", none), (0, neighbours)),
        truncated=np.pad(np.round(image.attributes.get("truncated", none), 3), (0, neighbours)),
    )


def _heights(boxes: Array) -> Array:
    """Pixels, to a thousandth: float32 does not keep the two decimals of labels, and 40.00 must not become 39.99997."""
    return np.round(boxes[:, 3] - boxes[:, 1], 3)


def curve(images: Sequence[ImageOverlaps], limits: Limits) -> Array:
    """Precision at `POINTS` recall steps, the best at that step or a later one; NaN without an object that counts."""
    cases = [(image, *_flags(image, limits)) for image in images]
    objects = int(sum(counted.sum() for _, counted, _, _ in cases))
    if objects == 0:
        return np.full(POINTS, np.nan)
    steps = thresholds(np.concatenate([_true_scores(*case) for case in cases]), objects)
    true, false = np.sum([_true_and_false(*case, steps) for case in cases], axis=0)
    precision = np.zeros(POINTS)
    np.divide(true, true + false, out=precision[: len(steps)], where=true + false > 0)
    return np.maximum.accumulate(precision[::-1])[::-1]


def thresholds(scores: Array, objects: int) -> Array:
    """Up to `POINTS` scores of true detections, descending: where recall passes 0, 1/40, 2/40, ... most closely."""
    ordered = np.sort(scores)[::-1]
    steps: list[float] = []
    target = 0.0
    for number, score in enumerate(ordered.tolist(), start=1):
        last = number == len(ordered)
        # Skip this score when the next one is closer to the target.
        if not last and (number + 1) / objects - target < target - number / objects:
            continue
        steps.append(score)
        target += 1 / (POINTS - 1)
    return np.array(steps)


def _flags(image: ImageOverlaps, limits: Limits) -> tuple[Flags, Flags, Flags]:
    """(G,): the objects that count; (D,) each: the detections too low to count, of whatever class; those that count."""
    visible = (image.occluded <= limits.occluded) & (image.truncated <= limits.truncated)
    low = image.heights < limits.height
    return visible & (image.object_heights > limits.height), low, image.own & ~low


def _true_scores(image: ImageOverlaps, counted: Flags, low: Flags, valid: Flags) -> Array:
    """Scores of the true detections when each object takes the highest score among those that overlap it enough."""
    free = low | valid
    scores = []
    for column in np.flatnonzero(image.overlap.any(axis=0)):
        candidates = np.flatnonzero(free & (image.overlap[:, column] > 0))
        if len(candidates) == 0:
            continue
        taken = candidates[image.scores[candidates].argmax()]
        free[taken] = False
        if counted[column] and valid[taken]:
            scores.append(image.scores[taken])
    return np.array(scores, dtype=np.float64)


def _true_and_false(image: ImageOverlaps, counted: Flags, low: Flags, valid: Flags, steps: Array) -> Labels:
    """(2, S): true and false detections at each of S score thresholds, each object taking the greatest overlap.

    An object takes a low detection, the first in the list, only where none that counts is left.
    """
    free = (image.scores[None, :] >= steps[:, None]) & (low | valid)
    true = np.zeros(len(steps), np.int64)
    rows = np.arange(len(steps))
    for column in np.flatnonzero(image.overlap.any(axis=0)):
        # A low detection ranks below every one that counts (whose IoU exceeds 0.5), and all low ones rank the same.
        rank = np.where(valid, image.overlap[:, column], np.minimum(image.overlap[:, column], 1e-9))
        candidates = np.where(free, rank, 0.0)
        taken = candidates.argmax(axis=1)
        hit = candidates[rows, taken] > 0
        free[rows[hit], taken[hit]] = False
        if counted[column]:
            true += hit & valid[taken]
    false = free & valid & ~image.on_dont_care
    return np.stack((true, false.sum(axis=1)))
