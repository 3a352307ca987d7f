"""The scores of the field, computed from records and predictions: COCO, PASCAL VOC and KITTI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eyas.evaluation import coco, kitti, voc
from eyas.evaluation.result import EvaluationResult
from eyas.types import EyasError, Prediction, Record

__all__ = ["METRICS", "EvaluationResult", "default_metric", "evaluate"]

METRICS: dict[str, Callable[[Sequence[Record], Sequence[str], Sequence[Prediction]], EvaluationResult]] = {
    "coco": coco.evaluate,
    "voc": voc.evaluate,
    "kitti": kitti.evaluate,
}
DEFAULTS = {"coco": "coco", "yolo": "coco", "voc": "voc", "kitti": "kitti"}
"""Data format -> the metric by which its field reports."""


def evaluate(
    metric: str, records: Sequence[Record], classes: Sequence[str], predictions: Sequence[Prediction]
) -> EvaluationResult:
    """Score predictions by a metric of `METRICS`.

    Args:
        metric: "coco", "voc" or "kitti".
        records: the ground truth.
        classes: class names in label order.
        predictions: entry i belongs to record i: boxes in the frame of its image file, 0-based labels.

    Raises:
        EyasError: an unknown metric, a label outside the class list, a box or score that is not finite.
        ValueError: records and predictions differ in number.
    """
    if metric not in METRICS:
        raise EyasError(f"metric: {metric!r} is not known; use one of {', '.join(METRICS)}")
    return METRICS[metric](records, classes, predictions)


def default_metric(data_format: str) -> str:
    """The metric by which a data format's field reports. Raises `EyasError` on an unknown format."""
    if data_format not in DEFAULTS:
        raise EyasError(f"data format: {data_format!r} is not known; the known ones are {', '.join(DEFAULTS)}")
    return DEFAULTS[data_format]
