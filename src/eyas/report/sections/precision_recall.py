"""Precision over recall: the mean curve of every detector, and those of the classes with the most objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from eyas.data import DataSource
from eyas.evaluation.errors import MATCH
from eyas.evaluation.inputs import Array
from eyas.evaluation.precision_recall import POINTS, curves, mean_curve
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.markup import Html, beside, details, figure, grid, join
from eyas.report.svg import colour_legend, colour_of, drawing

PANELS = 12
"""Classes that get a chart of their own: those with the most objects."""
RECALL = [step / (POINTS - 1) for step in range(POINTS)]


def section(data: ReportData) -> Html:
    source, detections = data.source_and_detections()
    by_model = {name: curves(source.records, source.classes, one.predictions) for name, one in detections.items()}
    means = {name: mean_curve(by_class) for name, by_class in by_model.items()}
    areas = ", ".join(f"{name} {mean.mean():.3f}" for name, mean in means.items() if mean is not None)
    label = f"Precision over recall, mean over the classes. Mean precision: {areas}"
    arms, common = data.found.arms, _most_common(source)
    whole = _chart(means, arms, "mean over the classes", label, charts.LARGE)
    panels = [
        _chart({name: one[label] for name, one in by_model.items()}, arms, label, f"Precision over recall of {label}")
        for label in common
    ]
    shown = "every class" if len(common) == len(source.classes) else f"the {len(common)} classes with the most objects"
    note = f"At IoU {MATCH:g}, by the matching of PASCAL VOC: the best precision at each recall or a higher one."
    by_class = details(f"By class: {shown}", grid(figure(panel, "") for panel in panels))
    return join([colour_legend(detections, arms), beside(figure(whole, note), by_class)])


def _most_common(source: DataSource) -> list[str]:
    """Up to `PANELS` classes with the most objects, in descending order."""
    labels = np.concatenate([record.labels for record in source.records])
    counts = np.bincount(labels, minlength=len(source.classes))
    return [source.classes[label] for label in np.argsort(-counts, kind="stable")[:PANELS] if counts[label]]


def _chart(
    found: Mapping[str, Array | None], arms: Iterable[str], heading: str, label: str, size: charts.Inches = charts.SMALL
) -> Html:
    known = {name: values.tolist() for name, values in found.items() if values is not None}
    lines: dict[int, charts.Line] = {colour_of(name, arms): (RECALL, values) for name, values in known.items()}
    draw = partial(charts.lines, by_arm=lines, x="recall", y="precision", title=heading, unit=True, size=size)
    return drawing(draw, label)
