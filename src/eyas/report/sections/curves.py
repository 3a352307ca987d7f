"""The metric over the epochs, and every loss term over the steps."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from eyas.comparison.schedules import Schedules
from eyas.comparison.statistics import Comparison
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.comparison_files import draw_curves, draw_seconds
from eyas.report.markup import Html, beside, figure, grid, heading, join, paragraph, shown, table, together
from eyas.report.runs import Arms, Run
from eyas.report.svg import colour_legend, drawing
from eyas.runs.results import metric_title


def section(data: ReportData) -> Html:
    metric, seconds = _metric(data.comparison), _seconds(data.comparison, data.schedules)
    return beside(
        together(metric, *seconds) if seconds else metric,
        together(
            heading("Loss terms"), _losses(data.found.arms), *_weights(data.found.arms), *_shares(data.found.arms)
        ),
    )


def _metric(comparison: Comparison) -> Html:
    """A line for each run."""
    metric = metric_title(comparison.metric)
    runs = {f"{name}-{seed}": run for name, arm in comparison.arms.items() for seed, run in arm.runs.items()}
    if max(len(run.curve) for run in runs.values()) == 1:
        return paragraph(f"No curve of {metric}: the runs were evaluated once only.", kind="missing")
    ends = [f"{name} ends at {shown(run.curve[-1][1][comparison.metric])}" for name, run in runs.items()]
    draw = partial(draw_curves, comparison=comparison, size=charts.LARGE)
    chart = drawing(draw, f"{metric} over the epochs, a line for each run: {', '.join(ends)}")
    return figure(chart, f"{metric} on the validation images, a line for each run.")


def _seconds(comparison: Comparison, schedules: Schedules | None) -> list[Html]:
    """A line for each arm and schedule; nothing for one schedule without equal time."""
    if schedules is None or not schedules.curves:
        return []
    title = metric_title(comparison.metric)
    ends = [
        f"{name} ends at {shown(curve[-1][1])} after {curve[-1][0]:.0f} s" for name, curve in schedules.curves.items()
    ]
    draw = partial(draw_seconds, comparison, schedules, size=charts.LARGE)
    chart = drawing(draw, f"{title} over the seconds of training, the mean of each arm and schedule: {', '.join(ends)}")
    return [
        figure(
            chart, f"{title} over the seconds of training: the mean of each arm; at its end its epochs and its seeds."
        )
    ]


def _losses(arms: Arms) -> Html:
    """A chart for each loss term, a line for each arm that has it."""
    panels = _panels(arms, "losses", "Loss term", "loss")
    if not panels:
        return paragraph("No loss terms: the logs have no line of a training step.", kind="missing")
    note = "Mean over the seeds; terms as they enter the sum, with their weights. Each point of a long run is a mean."
    return join([colour_legend(arms, arms, of="arms"), grid(panels), paragraph(note, kind="note")])


def _weights(arms: Arms) -> list[Html]:
    """The weight of each distillation term over the steps; nothing where no arm has one that changes."""
    panels = _panels(arms, "weights", "Weight of", "weight", log=True)
    if not panels:
        return []
    note = "Automatic weights, logarithmic: they hold the term's gradient at a fraction of the detection loss's."
    return [heading("Weights"), grid(panels), paragraph(note, kind="note")]


def _shares(arms: Arms) -> list[Html]:
    """What each level or head has of a distillation term's loss; nothing where no term has several."""
    rows = []
    for arm, seeds in arms.items():
        by_term: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for term, parts in (item for run in seeds.values() for line in run.steps for item in _parts(line)):
            for part, share in parts.items():
                by_term[term][part].append(share)
        for term, own in by_term.items():
            shown_shares = ", ".join(f"{part} {statistics.fmean(values):.0%}" for part, values in own.items())
            rows.append((arm, term, shown_shares))
    if not rows:
        return []
    caption = "Share of each level or head in a term's loss, mean over the steps that were logged and the seeds"
    return [heading("Where a term's loss is"), table(caption, ("arm", "term", "shares"), rows)]


def _parts(line: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Term -> the shares of its levels or heads that a line of the log has."""
    for term, parts in line.get("shares", {}).items():
        yield term, {name: share for name, share in parts.items() if share is not None}


def _panels(arms: Arms, field: str, what: str, axis: str, *, log: bool = False) -> list[Html]:
    """A chart over the steps for each name in a field of the log, a line for each arm that has it.

    A logarithmic one has the values above 0 alone, and is left out where they are all the same.
    """
    by_name: dict[str, dict[int, charts.Line]] = defaultdict(dict)
    for index, seeds in enumerate(arms.values()):
        for name, points in _points(seeds.values(), field).items():
            kept = [point for point in points if not log or point[1] > 0]
            if not log or len({value for _, value in kept}) > 1:
                by_name[name][index] = charts.binned(kept)
    names, panels = list(arms), []
    for name, lines in by_name.items():
        label = f"{what} {name} over the steps, of {', '.join(names[index] for index in lines)}"
        draw = partial(charts.lines, by_arm=lines, x="step", y=axis, title=name, log=log)
        panels.append(figure(drawing(draw, label), ""))
    return panels


def _points(runs: Iterable[Run], field: str) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, mean over the runs that logged this step)."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for line in run.steps:
            for name, value in line.get(field, {}).items():
                if value is not None:
                    values[name][line["step"]].append(value)
    return {
        name: [(step, statistics.fmean(found)) for step, found in sorted(steps.items())]
        for name, steps in values.items()
    }
