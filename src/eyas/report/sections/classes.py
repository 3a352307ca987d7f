"""The metric of every class, mean over the seeds, in a chart and in a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial

from eyas.evaluation.ground_truth import count_objects
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.markup import Html, beside, figure, join, paragraph, shown, table
from eyas.report.runs import Run
from eyas.report.svg import colour_legend, drawing
from eyas.runs.results import metric_title

CLASSES_DRAWN = 40
"""With more classes the chart would be taller than any screen; the table has them all."""


def section(data: ReportData) -> Html:
    arms, metric = data.found.arms, data.comparison.metric
    classes = list(next(iter(data.runs.values())).per_class)
    means = {arm: [_mean(seeds, label, metric) for label in classes] for arm, seeds in arms.items()}
    name = metric_title(metric).replace("mAP", "AP")
    caption = f"{name} by class: mean over the seeds"
    counts = {} if data.source is None else {"objects": count_objects(data.source)}
    body = [
        [label, *(f"{found[label]:,}" for found in counts.values()), *(shown(values[row]) for values in means.values())]
        for row, label in enumerate(classes)
    ]
    whole = table(caption, ["class", *counts, *means], body)
    if len(classes) > CLASSES_DRAWN:
        return join([paragraph(f"{len(classes)} classes are too many for a chart.", kind="note"), whole])
    draw = partial(charts.dots, rows=classes, by_arm=dict(enumerate(means.values())), x=name)
    chart = drawing(draw, f"{caption}; the table has the values")
    legend = colour_legend(arms, arms, of="arms")
    return join([legend, beside(figure(chart, f"{caption}, a dot for each arm."), whole)])


def _mean(seeds: Mapping[int, Run], label: str, name: str) -> float:
    """The mean over the seeds; NaN where the metric is undefined for the class, which no seed changes."""
    values = [run.per_class[label].get(name) for run in seeds.values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan
