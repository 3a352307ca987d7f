"""Where a metric is undefined, or cannot reach 1, because of the ground truth of a split alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from eyas.data import DataSource, without_objects
from eyas.evaluation import METRICS, benchmark_of, evaluate
from eyas.tools.tables import listed
from eyas.types import Prediction, Record


def remarks(metric: str, source: DataSource) -> list[str]:
    """Sentences on what the metric cannot say about a split; none where it is defined, and can be 1, for every class.

    Args:
        metric: the rules to evaluate by, see `eyas.evaluation.chosen_metric`.
        source: the split that detectors are scored on.
    """
    # Whether a metric is defined depends on the ground truth alone.
    unanswered = evaluate(metric, source.records, source.classes, [_prediction(record, 0) for record in source.records])
    if math.isnan(unanswered.primary):
        why = without_objects(source) or _uncounted(metric, source, source.classes)
        return [f"{why}, so every metric is undefined: the last weights count as the best, a teacher is not checked"]
    undefined = [name for name, values in unanswered.per_class.items() if math.isnan(next(iter(values.values())))]
    objects = count_objects(source)
    absent = [name for name in undefined if not objects[name]]
    found = [f"split {source.split} has no object of class {listed(absent)}, which has no metric"] if absent else []
    uncounted = [name for name in undefined if objects[name]]
    found += [_uncounted(metric, source, uncounted)] if uncounted else []
    return found + _capped(metric, source)


def too_few_detections(limit: int | None, source: DataSource) -> str | None:
    """A sentence about a detector that returns at most ``limit`` detections of an image, where images have more
    objects; None for any other."""
    most = max((len(record.boxes) for record in source.records), default=0)
    if limit is None or most <= limit:
        return None
    has = f"images of {source.split} have up to {most} objects"
    return f"the detector returns at most {limit} detections of an image, and {has}"


def _capped(metric: str, source: DataSource) -> list[str]:
    """The highest score that the rules' limit of detections allows, where that is below 1."""
    limit = benchmark_of(metric)[1]
    most = [int(np.bincount(record.labels).max(initial=0)) for record in source.records]
    crowded = [count for count in most if limit is not None and count > limit]
    if not crowded:
        return []
    everything = [_prediction(record, len(record.boxes)) for record in source.records]
    perfect = evaluate(metric, source.records, source.classes, everything)
    name, value = next(iter(perfect.summary.items()))
    return [
        f"{len(crowded)} images of {source.split} have more than {limit} objects of one class (up to {max(crowded)}), "
        f"and only {limit} detections of a class in an image count: a perfect detector has {name} {value:.3f}. The "
        f"option max_detections {max(crowded)} counts them all; metrics with it have other names, since they do not "
        "compare with COCO's"
    ]


def _uncounted(metric: str, source: DataSource, classes: Sequence[str]) -> str:
    objects = count_objects(source)
    names = listed([f"{name} ({objects[name]})" for name in classes])
    left_out = METRICS[benchmark_of(metric)[0]].LEAVES_OUT
    return f"no object of class {names} in split {source.split} counts: the rules of {metric} leave out {left_out}"


def count_objects(source: DataSource) -> Counter[str]:
    """Class name -> how many objects the images of a split have."""
    return Counter(source.classes[label] for record in source.records for label in record.labels.tolist())


def _prediction(record: Record, count: int) -> Prediction:
    """The first ``count`` objects of a record as detections."""
    boxes, labels = torch.from_numpy(record.boxes[:count]), torch.from_numpy(record.labels[:count])
    return Prediction(boxes=boxes, scores=torch.ones(len(boxes)), labels=labels)
