"""Metrics of detection, computed from records and predictions by the rules of COCO, PASCAL VOC and KITTI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eyas.evaluation import coco, kitti, voc
from eyas.evaluation.result import EvaluationResult
from eyas.types import EyasError, Prediction, Record

__all__ = [
    "METRICS",
    "EvaluationResult",
    "Metric",
    "benchmark_of",
    "chosen_metric",
    "default_metric",
    "evaluate",
    "run_metric",
]


class Metric(Protocol):
    """A benchmark's rules: one module of this package, one entry of `METRICS` and of `eyas.args.MetricName`.

    Attributes:
        NAMES: names of its metrics; the first is the one that the field ranks by.
        FORMATS: data formats that are scored by these rules by default.
        LEAVES_OUT: the objects that do not count, in words.
    """

    @property
    def NAMES(self) -> tuple[str, ...]: ...
    @property
    def FORMATS(self) -> tuple[str, ...]: ...
    @property
    def LEAVES_OUT(self) -> str: ...

    def evaluate(
        self, records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
    ) -> EvaluationResult:
        """The metrics; arguments and errors as for `eyas.evaluation.evaluate`."""
        ...


METRICS: Mapping[str, Metric] = {"coco": coco, "voc": voc, "kitti": kitti}
LIMITED = re.compile(r"coco_max([1-9]\d*)")
"""The rules of COCO with another limit of detections, by name."""


def evaluate(
    metric: str, records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> EvaluationResult:
    """Score predictions by the rules of a metric.

    Args:
        metric: a key of `METRICS`, or ``coco_max300``: COCO's rules with up to 300 detections of a class in an image.
        records: the ground truth.
        classes: class names in label order.
        predictions: entry i belongs to record i: boxes in the frame of its image file, 0-based labels.

    Raises:
        EyasError: an unknown metric, a label outside the class list, a box or score that is not finite.
        ValueError: records and predictions differ in number.
    """
    name, limit = benchmark_of(metric)
    if name == "coco" and limit is not None:
        return coco.evaluate(records, classes, predictions, max_detections=limit)
    return METRICS[name].evaluate(records, classes, predictions)


def benchmark_of(metric: str) -> tuple[str, int | None]:
    """The key of `METRICS`, and the detections of one class in one image that count; None where all do.

    Raises EyasError for another name.
    """
    limit = LIMITED.fullmatch(metric)
    if limit is not None:
        return "coco", int(limit[1])
    if metric not in METRICS:
        raise EyasError(f"metric: {metric!r} is not known; use one of {', '.join(METRICS)}")
    return metric, coco.MAX_DETECTIONS if metric == "coco" else None


def chosen_metric(metric: str | None, max_detections: int | None, data_format: str) -> str:
    """The rules that a user's options ask for, as `evaluate` takes them.

    Args:
        metric: a key of `METRICS`; None for that of the data format.
        max_detections: of one class in one image; None for what the rules say.
        data_format: of the images that are scored.

    Raises:
        EyasError: a limit for rules that have none.
    """
    name = metric or default_metric(data_format)
    if max_detections is None:
        return name
    if name != "coco":
        raise EyasError(f"max_detections {max_detections}: the rules of {name} count all detections; leave it out")
    return coco.limited(name, max_detections)


def run_metric(
    config: Mapping[str, Any], data_format: str, *, metric: str | None = None, max_detections: int | None = None
) -> str:
    """The rules of a run, unless a user's options ask for others; `chosen_metric` has the arguments and errors.

    Args:
        config: of the run; may be empty.
    """
    recorded = config.get("run", {})
    name = metric or recorded.get("metric") or default_metric(data_format)
    limit = max_detections
    if limit is None and metric is None and name == "coco":  # a run's own limit means nothing to other rules
        limit = recorded.get("max_detections")
    return chosen_metric(name, limit, data_format)


def default_metric(data_format: str) -> str:
    """The key of `METRICS` by which a data format's field reports. Raises EyasError on an unknown format."""
    by_format = {format: name for name, metric in METRICS.items() for format in metric.FORMATS}
    if data_format not in by_format:
        raise EyasError(f"data format: {data_format!r} is not known; the known ones are {', '.join(by_format)}")
    return by_format[data_format]
