"""Size and speed of the detectors against their accuracy, drawn and in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from eyas.comparison.statistics import Comparison
from eyas.evaluation.cost import ModelCost
from eyas.report import charts
from eyas.report.collect import LeftOut, ReportData
from eyas.report.markup import Html, figure, grid, join, paragraph, shown, table
from eyas.report.runs import TEACHER
from eyas.report.svg import colour_legend, colour_of, drawing
from eyas.runs.results import metric_title

AXES: Mapping[str, Callable[[ModelCost], float]] = {
    "CPU latency, ms": lambda cost: cost.latency_ms,
    "parameters, million": lambda cost: cost.parameters / 1e6,
    "GFLOPs per image": lambda cost: cost.gflops,
}


def section(data: ReportData) -> Html:
    if not data.models:
        raise LeftOut("none of the runs has its weights, so nothing can be measured.")
    costs = {name: model.cost for name, model in data.models.items() if model.cost is not None}
    if not costs:
        raise LeftOut("nothing was measured, since without the data the size of an image is not known; give --data.")
    arms, metric = data.found.arms, metric_title(data.comparison.metric)
    scores = {name: _score(name, data.comparison) for name in costs}
    known = {colour_of(name, arms): name for name in costs if not math.isnan(scores[name][0])}
    panels = []
    for axis, value in AXES.items():
        dots = {colour: (value(costs[name]), *scores[name]) for colour, name in known.items()}
        draw = partial(charts.plane, dots=dots, x=axis, y=metric)
        panels.append(figure(drawing(draw, f"{metric} against {axis}; the table below has the values"), ""))
    head = ["detector", metric, "parameters", "GFLOPs", "latency", "10 % to 90 %"]
    whole = table("Size and latency", head, [_row(name, cost, scores[name][0]) for name, cost in costs.items()])
    one = next(reversed(costs.values()))
    sizes = {name: f"{cost.image_size[0]} x {cost.image_size[1]}" for name, cost in costs.items()}
    same = list(sizes.values())[-1]
    others = "".join(f"; of {name}: {size}" for name, size in sizes.items() if size != same)
    note = (
        f"One image of {same} pixels (height x width{others}), CPU threads: {one.threads}, on the machine that "
        "made this page: median, and 10th to 90th percentile, of 20 predictions with NMS. Detectors of one build "
        "share one measurement. GFLOPs count a multiply-add as two."
    )
    return join([colour_legend(costs, arms), grid(panels), whole, paragraph(note, kind="note")])


def _row(name: str, cost: ModelCost, score: float) -> list[str]:
    return [
        name,
        shown(score),
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.gflops:.2f}",
        f"{cost.latency_ms:.1f} ms",
        f"{cost.latency_p10_ms:.1f} to {cost.latency_p90_ms:.1f} ms",
    ]


def _score(name: str, comparison: Comparison) -> tuple[float, float | None]:
    """A detector's metric and half its interval; NaN for a teacher whose metric no run logged."""
    if name == TEACHER:
        return (math.nan if comparison.teacher is None else comparison.teacher[comparison.metric]), None
    found = comparison.arms[name].metrics[comparison.metric]
    return found.mean, found.half_width
