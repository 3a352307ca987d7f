"""What a metric cannot tell about a split, because of its ground truth alone: where it is undefined."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from eyas.data import DataSource, without_objects
from eyas.evaluation import METRICS, evaluate
from eyas.types import Prediction, Record

SHOWN = 8
"""Classes that a sentence names."""


def remarks(metric: str, source: DataSource) -> list[str]:
    """Sentences on what the metric cannot say about a split; none where it is defined for every class.

    Args:
        metric: a key of `eyas.evaluation.METRICS`.
        source: the split that detectors are scored on.
    """
    # Whether a metric is defined depends on the ground truth alone.
    unanswered = evaluate(metric, source.records, source.classes, [_prediction(record, 0) for record in source.records])
    if math.isnan(unanswered.primary):
        why = without_objects(source) or _uncounted(metric, source, source.classes)
        return [f"{why}, so every metric is undefined: the last weights count as the best, a teacher is not checked"]
    undefined = [name for name, values in unanswered.per_class.items() if math.isnan(next(iter(values.values())))]
    objects = _objects(source)
    absent = [name for name in undefined if not objects[name]]
    found = [f"split {source.split} has no object of class {_listed(absent)}, which has no metric"] if absent else []
    uncounted = [name for name in undefined if objects[name]]
    return found + ([_uncounted(metric, source, uncounted)] if uncounted else [])


def _uncounted(metric: str, source: DataSource, classes: Sequence[str]) -> str:
    objects = _objects(source)
    names = _listed([f"{name} ({objects[name]})" for name in classes])
    rules = METRICS[metric].LEAVES_OUT
    return f"no object of class {names} in split {source.split} counts: the rules of {metric} leave out {rules}"


def _objects(source: DataSource) -> Counter[str]:
    return Counter(source.classes[label] for record in source.records for label in record.labels.tolist())


def _prediction(record: Record, count: int) -> Prediction:
    """The first ``count`` objects of a record as detections."""
    boxes, labels = torch.from_numpy(record.boxes[:count]), torch.from_numpy(record.labels[:count])
    return Prediction(boxes=boxes, scores=torch.ones(len(boxes)), labels=labels)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
