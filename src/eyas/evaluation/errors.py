"""The errors of a detector at one score threshold: a verdict on every detection, an outcome of every object.

The kinds are those of Bolya et al., *TIDE: A General Toolbox for Identifying Object Detection Errors*, ECCV 2020, with
its thresholds. Two points differ: errors are counted, not weighed by the AP that they cost, and TIDE's rare "both
wrong" counts as false.

The detections of an image are judged in descending order of score. A detection is

- *correct* when its IoU with an object of its class that no earlier one took is at least 0.5; it takes the object that
  it overlaps most;
- *ignored* when more than half of it lies on an ignore region of its class, or of every class;
- badly *localised* when its largest IoU with an object of its class is at least 0.1 and below 0.5;
- of the wrong *class* when its IoU with an object of another class is at least 0.5;
- a *duplicate* when its IoU with an object of its class, which was taken, is at least 0.5;
- *false* otherwise: on the background.

An object is *found* when a correct detection took it; else seen only as another *class*, or only badly *localised*,
when such a detection overlaps it most, among the objects of other classes or of its own; else *missed*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyas.evaluation.inputs import Array, Flags, Labels, areas, array, intersections, overlaps
from eyas.types import Prediction, Record

MATCH = 0.5
TOUCH = 0.1
WRONG = ("localisation", "class", "duplicate", "false")
"""The verdicts that count against a detector."""
VERDICTS = ("correct", *WRONG, "ignored")
OUTCOMES = ("found", "localisation", "class", "missed")


@dataclass(frozen=True)
class JudgedImage:
    """The verdicts on one image.

    Attributes:
        kept: index in the prediction of each judged detection, in descending order of score.
        verdicts: one of `VERDICTS` for each of them.
        outcomes: one of `OUTCOMES` for each object of the record.
        confusions: (label of the object, label of the detection) for every verdict "class".
    """

    kept: tuple[int, ...]
    verdicts: tuple[str, ...]
    outcomes: tuple[str, ...]
    confusions: tuple[tuple[int, int], ...]

    @property
    def found(self) -> int:
        """Objects that were found, which is the number of correct detections."""
        return self.outcomes.count("found")

    @property
    def wrong(self) -> int:
        """Detections with a verdict of `WRONG`."""
        return sum(verdict in WRONG for verdict in self.verdicts)

    @property
    def score(self) -> float | None:
        """Found objects over all objects plus wrong detections, in [0, 1]; None where there are neither."""
        count = len(self.outcomes) + self.wrong
        return self.found / count if count else None


def judge(record: Record, prediction: Prediction, *, threshold: float) -> JudgedImage:
    """The verdicts and outcomes of one image.

    Args:
        record: the ground truth.
        prediction: boxes in the frame of the image file, 0-based labels, in any order.
        threshold: lowest score of the detections that are judged.
    """
    kept = kept_detections(prediction, threshold)
    boxes, labels = array(prediction["boxes"])[kept], prediction["labels"].cpu().numpy()[kept]
    objects = record.labels
    iou, same = overlaps(boxes, array(record.boxes)), labels[:, None] == objects[None, :]
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    ignored = ignored_detections(record, boxes, labels)
    taken = np.zeros(len(objects), bool)
    seen: dict[str, set[int]] = {"class": set(), "localisation": set()}
    verdicts = [_verdict(own[row], other[row], bool(ignored[row]), taken, seen) for row in range(len(kept))]
    return JudgedImage(
        kept=tuple(kept.tolist()),
        verdicts=tuple(verdicts),
        outcomes=tuple(_outcome(index, bool(taken[index]), seen) for index in range(len(objects))),
        confusions=tuple(
            (int(objects[other[row].argmax()]), int(labels[row]))
            for row, verdict in enumerate(verdicts)
            if verdict == "class"
        ),
    )


def totals(images: Sequence[JudgedImage]) -> tuple[Counter[str], Counter[str]]:
    """Objects by outcome and detections by verdict, counted over all images."""
    outcomes = Counter(outcome for image in images for outcome in image.outcomes)
    return outcomes, Counter(verdict for image in images for verdict in image.verdicts)


def confusions(images: Sequence[JudgedImage]) -> Counter[tuple[int, int]]:
    """(label of the object, label of the detection) -> how often the two were confused, over all images."""
    return Counter(pair for image in images for pair in image.confusions)


def ranked(images: Sequence[JudgedImage]) -> list[int]:
    """Indices of the images from best to worst by their score, without those that have neither objects nor detections.

    Between equal scores, the image with more found objects is better, then the one with fewer errors.
    """

    def rank(index: int) -> tuple[float, int, int]:
        image = images[index]
        return -(image.score or 0.0), -image.found, image.wrong + len(image.outcomes) - image.found

    return sorted((index for index, image in enumerate(images) if image.score is not None), key=rank)


def _verdict(own: Array, other: Array, ignored: bool, taken: Flags, seen: dict[str, set[int]]) -> str:
    """The verdict on one detection from its IoU with objects of its class and of others. Updates taken and seen."""
    if len(own) == 0:
        return "ignored" if ignored else "false"
    best = int(np.where(taken, 0.0, own).argmax())
    if own[best] >= MATCH and not taken[best]:
        taken[best] = True
        return "correct"
    if ignored:
        return "ignored"
    if TOUCH <= own.max() < MATCH:
        seen["localisation"].add(int(own.argmax()))
        return "localisation"
    if other.max() >= MATCH:
        seen["class"].add(int(other.argmax()))
        return "class"
    return "duplicate" if own.max() >= MATCH else "false"


def _outcome(index: int, taken: bool, seen: dict[str, set[int]]) -> str:
    if taken:
        return "found"
    return next((kind for kind in ("class", "localisation") if index in seen[kind]), "missed")


def kept_detections(prediction: Prediction, threshold: float) -> Labels:
    """Indices of the detections with at least this score, in descending order of score."""
    scores = array(prediction["scores"])
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= threshold]


def ignored_detections(record: Record, boxes: Array, labels: Labels) -> Flags:
    """(D,): more than half of the detection lies on an ignore region that concerns its class."""
    concerned = record.ignore_labels[None, :]
    concerns = (concerned == labels[:, None]) | (concerned == -1)
    inside = intersections(boxes, array(record.ignore)) > 0.5 * areas(boxes)[:, None]
    covered: Flags = (inside & concerns).any(axis=1)
    return covered
