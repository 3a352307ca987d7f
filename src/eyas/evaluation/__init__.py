"""Metrics of detection, computed from records and predictions by the rules of COCO, PASCAL VOC and KITTI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from eyas.evaluation import coco, kitti, voc
from eyas.evaluation.result import EvaluationResult
from eyas.types import EyasError, Prediction, Record

__all__ = ["METRICS", "EvaluationResult", "Metric", "default_metric", "evaluate"]


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


def evaluate(
    metric: str, records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> EvaluationResult:
    """Score predictions by the rules of a metric.

    Args:
        metric: a key of `METRICS`.
        records: the ground truth.
        classes: class names in label order.
        predictions: entry i belongs to record i: boxes in the frame of its image file, 0-based labels.

    Raises:
        EyasError: an unknown metric, a label outside the class list, a box or score that is not finite.
        ValueError: records and predictions differ in number.
    """
    if metric not in METRICS:
        raise EyasError(f"metric: {metric!r} is not known; use one of {', '.join(METRICS)}")
    return METRICS[metric].evaluate(records, classes, predictions)


def default_metric(data_format: str) -> str:
    """The key of `METRICS` by which a data format's field reports. Raises EyasError on an unknown format."""
    by_format = {format: name for name, metric in METRICS.items() for format in metric.FORMATS}
    if data_format not in by_format:
        raise EyasError(f"data format: {data_format!r} is not known; the known ones are {', '.join(by_format)}")
    return by_format[data_format]
