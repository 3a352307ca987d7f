"""Precision over recall: the mean curve of every detector, and those of the classes with the most objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eyas.data import DataSource
from eyas.evaluation.errors import MATCH
from eyas.evaluation.inputs import Array
from eyas.evaluation.precision_recall import POINTS, curves, mean_curve
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.colours import colour_of, detector_legend
from eyas.report.markup import Html, beside, details, figure, grid, join
from eyas.report.svg import drawing

ID = "precision-recall"
TITLE = "Precision and recall"
PANELS = 12
"""Classes that get a chart of their own: those with the most objects."""
RECALL = [step / (POINTS - 1) for step in range(POINTS)]


def section(data: ReportData) -> Html:
    source, detections = data.source_and_detections()
    arms = list(data.arms)
    by_model = {name: curves(source.records, source.classes, one.predictions) for name, one in detections.items()}
    means = {name: mean_curve(by_class) for name, by_class in by_model.items()}
    areas = ", ".join(f"{name} {mean.mean():.3f}" for name, mean in means.items() if mean is not None)
    label = f"Precision over recall, mean over the classes. Mean precision: {areas}"
    whole = _chart(means, arms, "mean over the classes", label, charts.LARGE)
    common = _most_common(source)
    panels = [
        _chart({name: one[label] for name, one in by_model.items()}, arms, label, f"Precision over recall of {label}")
        for label in common
    ]
    shown = "every class" if len(common) == len(source.classes) else f"the {len(common)} classes with the most objects"
    note = f"At IoU {MATCH:g}, by the matching of PASCAL VOC: the best precision at each recall or a higher one."
    drawn = grid(figure(panel, "") for panel in panels)
    return join([
        detector_legend(list(detections), arms),
        beside(figure(whole, note), details(f"By class: {shown}", drawn)),
    ])  # fmt: skip


def _most_common(source: DataSource) -> list[str]:
    """The classes with the most objects, falling, `PANELS` at most."""
    labels = np.concatenate([record.labels for record in source.records])
    counts = np.bincount(labels, minlength=len(source.classes))
    return [source.classes[label] for label in np.argsort(-counts, kind="stable")[:PANELS] if counts[label]]


def _chart(
    by_model: Mapping[str, Array | None],
    arms: Sequence[str],
    heading: str,
    label: str,
    size: tuple[float, float] = charts.SMALL,
) -> Html:
    lines: dict[int, charts.Line] = {
        colour_of(name, arms): (RECALL, values.tolist()) for name, values in by_model.items() if values is not None
    }
    return drawing(
        lambda path: charts.lines(path, lines, x="recall", y="precision", title=heading, unit=True, size=size), label
    )
