"""The metric over the epochs, and every loss term over the steps."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from eyas.comparison.statistics import title
from eyas.report import charts, plots
from eyas.report.collect import ReportData
from eyas.report.colours import arm_legend
from eyas.report.markup import Html, beside, figure, grid, heading, join, paragraph, together
from eyas.report.runs import Arms, Run
from eyas.report.svg import drawing

ID = "curves"
TITLE = "Curves"


def section(data: ReportData) -> Html:
    return beside(_metric(data.arms, data.metric), together(heading("Loss terms"), _losses(data.arms)))


def _metric(arms: Arms, name: str) -> Html:
    """A line for each run."""
    shown = title(name)
    lines, groups = {}, {}
    for arm, seeds in arms.items():
        for seed, run in seeds.items():
            lines[f"{arm}-{seed}"] = [(epoch, summary[name]) for epoch, summary in run.result.curve]
            groups[f"{arm}-{seed}"] = arm
    if max(map(len, lines.values())) == 1:
        return paragraph(f"No curve of {shown}: the runs were evaluated once only.", kind="missing")
    ends = ", ".join(f"{run} ends at {_text(points[-1][1])}" for run, points in lines.items())
    chart = drawing(
        lambda path: plots.curves(path, lines, x="epoch", y=shown, groups=groups, size=charts.LARGE),
        f"{shown} over the epochs, a line for each run: {ends}",
    )
    return figure(chart, f"{shown} on the validation images, a line for each run.")


def _losses(arms: Arms) -> Html:
    """A chart for each loss term, a line for each arm that has it."""
    by_term: dict[str, dict[int, charts.Line]] = defaultdict(dict)
    for index, seeds in enumerate(arms.values()):
        for term, points in _loss_points(list(seeds.values())).items():
            by_term[term][index] = charts.binned(points)
    if not by_term:
        return paragraph("No loss terms: the logs have no line of a training step.", kind="missing")
    panels = [figure(_loss(term, lines, list(arms)), "") for term, lines in by_term.items()]
    note = "Mean over the seeds; terms as they enter the sum, with their weights. Each point of a long run is a mean."
    return join([arm_legend(arms), grid(panels), paragraph(note, kind="note")])


def _loss(term: str, lines: Mapping[int, charts.Line], arms: Sequence[str]) -> Html:
    label = f"Loss term {term} over the steps, of {', '.join(arms[index] for index in lines)}"
    return drawing(lambda path: charts.lines(path, lines, x="step", y="loss", title=term), label)


def _loss_points(runs: Sequence[Run]) -> dict[str, list[tuple[float, float]]]:
    """Loss term -> (step, mean over the runs that logged this step)."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for line in run.steps:
            for term, value in line["losses"].items():
                if value is not None:
                    values[term][line["step"]].append(value)
    return {
        term: [(step, statistics.fmean(found)) for step, found in sorted(steps.items())]
        for term, steps in values.items()
    }


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
