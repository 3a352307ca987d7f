"""The result of an evaluation, and the mean over classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyas.runs.results import metric_title
from eyas.tools.tables import as_text


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of one evaluation, each in [0, 1].

    A metric is NaN where it is undefined: a class, size or difficulty without ground truth. The mean over classes
    leaves undefined classes out, as every devkit does; it is NaN only where nothing is left. Ground truth without any
    detection gives 0.

    Attributes:
        metric: the rules they are computed by, a key of `eyas.evaluation.METRICS`.
        summary: metric name -> mean over the classes, the primary metric first.
        per_class: class name -> the same metrics for that class, in label order.
    """

    metric: str
    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]

    @property
    def primary(self) -> float:
        """The metric that the field ranks by, the first of the summary: "map", or VOC's "map_50"."""
        return next(iter(self.summary.values()))

    def restricted_to(self, classes: Sequence[str]) -> EvaluationResult:
        """The result for some of its classes: their metrics, and the means over them."""
        if len(classes) == len(self.per_class):
            return self
        return summarise(self.metric, {name: self.per_class[name] for name in classes}, list(self.summary))

    def headline(self) -> str:
        """The first three means in one line, the primary one first, as ``mAP 0.431  mAP50 0.642  mAP75 0.458``."""
        shown = list(self.summary.items())[:3]
        return "  ".join(f"{metric_title(name)} {'-' if np.isnan(value) else f'{value:.3f}'}" for name, value in shown)

    def table(self) -> str:
        """Plain text: a row for each class and the mean in the last one; "-" where a metric is undefined."""
        names = list(self.summary)
        rows = [["class", *names]]
        for title, values in (*self.per_class.items(), ("mean", self.summary)):
            rows.append([title, *("-" if np.isnan(values[name]) else f"{values[name]:.3f}" for name in names)])
        return as_text(rows)


def mean(values: npt.ArrayLike) -> float:
    """The mean of the values that are not NaN; NaN, without a warning, when there are none."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    return float(known.mean()) if known.size else float("nan")


def summarise(metric: str, per_class: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> EvaluationResult:
    """The result whose summary is the mean of each named metric over the classes."""
    summary = {name: mean([values[name] for values in per_class.values()]) for name in names}
    return EvaluationResult(metric, summary, {key: dict(values) for key, values in per_class.items()})
