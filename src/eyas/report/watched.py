"""The parts of the page that need the detectors: precision over recall, and cost against accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eyas.comparison.statistics import Comparison, title
from eyas.data import DataSource
from eyas.evaluation.cost import ModelCost
from eyas.evaluation.errors import MATCH
from eyas.evaluation.inputs import Array
from eyas.evaluation.precision_recall import POINTS, curves, mean_curve
from eyas.report import charts
from eyas.report.look import Model, Seen
from eyas.report.markup import Html, beside, details, figure, grid, join, legend, paragraph, table
from eyas.report.runs import TEACHER
from eyas.report.svg import drawing, variable

PANELS = 12
"""Classes that get a precision-recall chart of their own: those with the most objects."""
RECALL = [step / (POINTS - 1) for step in range(POINTS)]
COSTS: Mapping[str, Callable[[ModelCost], float]] = {
    "CPU latency, ms": lambda cost: cost.latency_ms,
    "parameters, million": lambda cost: cost.parameters / 1e6,
    "GFLOPs per image": lambda cost: cost.gflops,
}


def place_of(name: str, arms: Sequence[str]) -> int:
    """The place of a detector among the arms, which gives its colour."""
    return charts.TEACHER_PLACE if name == TEACHER else list(arms).index(name)


def model_legend(names: Sequence[str], arms: Sequence[str]) -> Html:
    """The colours of detectors: of arms, and of the teacher."""
    return legend({name: variable(place_of(name, arms)) for name in names}, label="Colours of the detectors")


def precision_recall_part(seen: Mapping[str, Seen], source: DataSource, arms: Sequence[str]) -> Html:
    """The mean curve of every detector, and those of the classes with the most objects."""
    by_model = {name: curves(source.records, source.classes, one.predictions) for name, one in seen.items()}
    means = {name: mean_curve(by_class) for name, by_class in by_model.items()}
    areas = ", ".join(f"{name} {mean.mean():.3f}" for name, mean in means.items() if mean is not None)
    label = f"Precision over recall, mean over the classes. Mean precision: {areas}"
    whole = _curves(means, arms, "mean over the classes", label, charts.LARGE)
    labels = np.concatenate([record.labels for record in source.records])
    counts = np.bincount(labels, minlength=len(source.classes))
    common = [source.classes[label] for label in np.argsort(-counts, kind="stable")[:PANELS] if counts[label]]
    panels = [
        _curves({name: one[label] for name, one in by_model.items()}, arms, label, f"Precision over recall of {label}")
        for label in common
    ]
    shown = "every class" if len(common) == len(source.classes) else f"the {len(common)} classes with the most objects"
    note = f"At IoU {MATCH:g}, by the matching of PASCAL VOC: the best precision at each recall or a higher one."
    drawn = grid(figure(panel, "") for panel in panels)
    return join([model_legend(list(seen), arms), beside(figure(whole, note), details(f"By class: {shown}", drawn))])


def cost_part(models: Mapping[str, Model], comparison: Comparison, arms: Sequence[str]) -> Html:
    """Size and speed against accuracy, drawn and in a table."""
    known = {name: model.cost for name, model in models.items() if model.cost is not None}
    if not known:
        words = "Nothing was measured: without the data, the size of an image is not known; give --data."
        return paragraph(words, kind="missing")
    scores = {name: _score(name, comparison) for name in known}
    shown = title(comparison.metric)
    panels = [figure(_plane(axis, value, known, scores, arms, shown), "") for axis, value in COSTS.items()]
    body = [
        [
            name,
            "-" if math.isnan(scores[name][0]) else f"{scores[name][0]:.3f}",
            f"{cost.parameters / 1e6:.2f} M",
            f"{cost.gflops:.2f}",
            f"{cost.latency_ms:.1f} ms",
            f"{cost.latency_p10_ms:.1f} to {cost.latency_p90_ms:.1f} ms",
        ]
        for name, cost in known.items()
    ]
    height, width = (one := next(iter(known.values()))).image_size
    note = (
        f"One image of {height} x {width} pixels (height x width), CPU threads: {one.threads}, on the machine that "
        "made this page: median, and 10th to 90th percentile, of 20 predictions with NMS. Detectors of one build "
        "share one measurement. GFLOPs count a multiply-add as two."
    )
    head = ["detector", shown, "parameters", "GFLOPs", "latency", "10 % to 90 %"]
    whole = table("Size and latency", head, body)
    return join([model_legend(list(known), arms), grid(panels), whole, paragraph(note, kind="note")])


def _curves(
    by_model: Mapping[str, Array | None],
    arms: Sequence[str],
    heading: str,
    label: str,
    size: tuple[float, float] = charts.SMALL,
) -> Html:
    lines: dict[int, charts.Line] = {
        place_of(name, arms): (RECALL, values.tolist()) for name, values in by_model.items() if values is not None
    }
    return drawing(
        lambda path: charts.lines(path, lines, x="recall", y="precision", title=heading, unit=True, size=size), label
    )


def _plane(
    axis: str,
    value: Callable[[ModelCost], float],
    known: Mapping[str, ModelCost],
    scores: Mapping[str, tuple[float, float | None]],
    arms: Sequence[str],
    shown: str,
) -> Html:
    dots = {
        place_of(name, arms): charts.Dot(value(cost), *scores[name])
        for name, cost in known.items()
        if not math.isnan(scores[name][0])
    }
    label = f"{shown} against {axis}; the table below has the values"
    return drawing(lambda path: charts.plane(path, dots, x=axis, y=shown), label)


def _score(name: str, comparison: Comparison) -> tuple[float, float | None]:
    """The figure of a detector, and half its interval; NaN for a teacher whose figures no run logged."""
    if name == TEACHER:
        return (math.nan if comparison.teacher is None else comparison.teacher[comparison.metric]), None
    found = comparison.arms[name].metrics[comparison.metric]
    return found.mean, found.half_width
