"""Size and speed of the detectors against their accuracy, drawn and in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from eyas.comparison.statistics import Comparison, title
from eyas.evaluation.cost import ModelCost
from eyas.report import charts
from eyas.report.collect import LeftOut, ReportData
from eyas.report.colours import colour_of, detector_legend
from eyas.report.markup import Html, figure, grid, join, paragraph, table
from eyas.report.runs import TEACHER
from eyas.report.svg import drawing

ID = "cost"
TITLE = "Size and latency against accuracy"
AXES: Mapping[str, Callable[[ModelCost], float]] = {
    "CPU latency, ms": lambda cost: cost.latency_ms,
    "parameters, million": lambda cost: cost.parameters / 1e6,
    "GFLOPs per image": lambda cost: cost.gflops,
}
Score = tuple[float, float | None]
"""A detector's metric and half its interval; NaN for a teacher whose metric no run logged."""


def section(data: ReportData) -> Html:
    if not data.models:
        raise LeftOut("none of the runs has its weights, which are measured.")
    costs = {name: model.cost for name, model in data.models.items() if model.cost is not None}
    if not costs:
        raise LeftOut("nothing was measured, since without the data the size of an image is not known; give --data.")
    arms, shown = list(data.arms), title(data.metric)
    scores = {name: _score(name, data.comparison) for name in costs}
    panels = [figure(_plane(axis, value, costs, scores, arms, shown), "") for axis, value in AXES.items()]
    head = ["detector", shown, "parameters", "GFLOPs", "latency", "10 % to 90 %"]
    whole = table("Size and latency", head, [_row(name, cost, scores[name][0]) for name, cost in costs.items()])
    height, width = (one := next(iter(costs.values()))).image_size
    note = (
        f"One image of {height} x {width} pixels (height x width), CPU threads: {one.threads}, on the machine that "
        "made this page: median, and 10th to 90th percentile, of 20 predictions with NMS. Detectors of one build "
        "share one measurement. GFLOPs count a multiply-add as two."
    )
    return join([detector_legend(list(costs), arms), grid(panels), whole, paragraph(note, kind="note")])


def _row(name: str, cost: ModelCost, score: float) -> list[str]:
    return [
        name,
        "-" if math.isnan(score) else f"{score:.3f}",
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.gflops:.2f}",
        f"{cost.latency_ms:.1f} ms",
        f"{cost.latency_p10_ms:.1f} to {cost.latency_p90_ms:.1f} ms",
    ]


def _plane(
    axis: str,
    value: Callable[[ModelCost], float],
    costs: Mapping[str, ModelCost],
    scores: Mapping[str, Score],
    arms: Sequence[str],
    shown: str,
) -> Html:
    dots = {
        colour_of(name, arms): charts.Dot(value(cost), *scores[name])
        for name, cost in costs.items()
        if not math.isnan(scores[name][0])
    }
    label = f"{shown} against {axis}; the table below has the values"
    return drawing(lambda path: charts.plane(path, dots, x=axis, y=shown), label)


def _score(name: str, comparison: Comparison) -> Score:
    if name == TEACHER:
        return (math.nan if comparison.teacher is None else comparison.teacher[comparison.metric]), None
    found = comparison.arms[name].metrics[comparison.metric]
    return found.mean, found.half_width
