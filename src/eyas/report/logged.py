"""The parts of the page that the logs alone are enough for: the table, the curves, the average precision by class."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from eyas.comparison.arms import BASELINE
from eyas.comparison.statistics import Comparison, gap_interval, rows, title
from eyas.report import charts
from eyas.report.markup import Html, beside, details, figure, grid, heading, join, legend, paragraph, table, together
from eyas.report.plots import curves, intervals
from eyas.report.runs import Arms, Found, Run
from eyas.report.svg import drawing, variable

CLASSES_DRAWN = 40
"""Above it a chart of all classes would be taller than any screen; the table has them all."""


def summary_part(found: Found, comparison: Comparison) -> Html:
    """The table of the comparison, its intervals drawn, the gap closed, and what the runs are."""
    name = title(comparison.metric)
    head, *body = _without_empty_columns(rows(comparison))
    parts = [
        table(f"{name} of the last epoch: mean over the seeds", ["arm", *head[1:]], body),
        paragraph(_reading(comparison), kind="note"),
    ]
    closed = _gap_closed(found.arms, comparison)
    if len(comparison.arms) > 1 or comparison.teacher is not None:
        drawn = figure(_intervals(comparison), f"{name}: mean, 95 % interval, and every seed as a dot.")
        parts.append(beside(drawn, closed))
    parts += [paragraph(note, kind="missing") for note in found.notes]
    parts.append(details("The runs", _runs(found.arms, comparison.metric)))
    return join(parts)


def curves_part(arms: Arms, name: str) -> Html:
    """The figure and every loss term over the run."""
    lines = {
        f"{arm}-{seed}": [(epoch, summary[name]) for epoch, summary in run.result.curve]
        for arm, seeds in arms.items()
        for seed, run in seeds.items()
    }
    groups = {f"{arm}-{seed}": arm for arm, seeds in arms.items() for seed in seeds}
    if max(map(len, lines.values())) > 1:
        label = f"{title(name)} over the epochs, a line for each run: {_ends(lines)}"
        size, figure_name = charts.LARGE, title(name)
        chart = drawing(lambda path: curves(path, lines, x="epoch", y=figure_name, groups=groups, size=size), label)
        first = figure(chart, f"{title(name)} on the validation images, a line for each run.")
    else:
        first = paragraph(f"No curve of {title(name)}: the runs were evaluated once only.", kind="missing")
    return beside(first, together(heading("Loss terms"), _losses(arms)))


def classes_part(arms: Arms, name: str) -> Html:
    """The figure of every class: mean over the seeds, in a chart and in a table."""
    classes = list(next(iter(next(iter(arms.values())).values())).per_class)
    means = {arm: [_class_mean(seeds, label, name) for label in classes] for arm, seeds in arms.items()}
    shown = title(name).replace("mAP", "AP")
    caption = f"{shown} by class: mean over the seeds"
    body = [[label, *(_text(values[row]) for values in means.values())] for row, label in enumerate(classes)]
    whole = table(caption, ["class", *means], body)
    if len(classes) > CLASSES_DRAWN:
        return join([paragraph(f"{len(classes)} classes are too many for a chart.", kind="note"), whole])
    by_place = dict(enumerate(means.values()))
    chart = drawing(lambda path: charts.dots(path, classes, by_place, x=shown), f"{caption}; the table has the values")
    return join([arm_legend(arms), beside(figure(chart, f"{caption}, a dot for each arm."), whole)])


def arm_legend(arms: Iterable[str]) -> Html:
    """The colours of the arms."""
    return legend({arm: variable(place) for place, arm in enumerate(arms)}, label="Colours of the arms")


def _reading(comparison: Comparison) -> str:
    several = any(len(arm.seeds) > 1 for arm in comparison.arms.values())
    words = (
        "±: half width of the 95 % confidence interval of the mean over the seeds (Student's t). " if several else ""
    )
    if not several:
        words += "One seed tells nothing of the spread: two trainings that differ in their seed may lie further apart. "
    if BASELINE in comparison.arms:
        words += "Minus plain is paired by seed. "
        if comparison.teacher is not None:
            words += "Gap closed: (arm - plain) / (teacher - plain), of the means. "
    else:
        words += "There is no plain arm, so no gain over plain training and no gap closed. "
    return words + "Seconds and memory are those of the training."


def _intervals(comparison: Comparison) -> Html:
    name, teacher = comparison.metric, comparison.teacher
    groups = {}
    for arm, values in comparison.arms.items():
        found = values.metrics[name]
        groups[arm] = (found.mean, found.half_width, found.values)
    line = None if teacher is None else ("teacher", teacher[name])
    means = ", ".join(f"{arm} {group[0]:.3f}" for arm, group in groups.items())
    label = f"{title(name)} by arm: {means}" + ("" if line is None else f"; teacher {line[1]:.3f}")
    return drawing(lambda path: intervals(path, groups, x=title(name), line=line, width=charts.LARGE[0]), label)


def _gap_closed(arms: Arms, comparison: Comparison) -> Html:
    """The table of the gap closed with its intervals; nothing where there is no gap to speak of."""
    name, teacher = comparison.metric, comparison.teacher
    if BASELINE not in arms or teacher is None:
        return Html("")
    plain = _values(arms[BASELINE], name)
    body = []
    for arm, values in comparison.arms.items():
        closed = values.metrics[name].gap_closed
        if closed is not None:
            ends = gap_interval(_values(arms[arm], name), plain, teacher[name])
            body.append([arm, f"{closed:.0%}", "-" if ends is None else f"{ends[0]:.0%} to {ends[1]:.0%}"])
    if not body:
        return Html("")
    note = "The interval is Fieller's, for a ratio of two means of the same seeds; - where there are too few of them."
    caption = f"Gap to the teacher closed, by {title(name)}"
    return together(table(caption, ["arm", "gap closed", "95 % interval"], body), paragraph(note, kind="note"))


def _without_empty_columns(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows, head first, less the columns that nothing is known of, as memory in runs that did not log it."""
    filled = [place for place in range(len(lines[0])) if place == 0 or any(line[place] for line in lines[1:])]
    return [[line[place] for place in filled] for line in lines]


def _runs(arms: Arms, name: str) -> Html:
    body = [
        [str(run.folder), arm, str(seed), str(run.result.curve[-1][0]), _text(run.result.summary[name])]
        for arm, seeds in arms.items()
        for seed, run in seeds.items()
    ]
    return table("The runs of this page", ["folder", "arm", "seed", "epochs", title(name)], body)


def _losses(arms: Arms) -> Html:
    """A chart for each loss term, a line for each arm that has it."""
    by_term: dict[str, dict[int, charts.Line]] = defaultdict(dict)
    for place, seeds in enumerate(arms.values()):
        for term, points in _loss_points(list(seeds.values())).items():
            by_term[term][place] = charts.binned(points)
    if not by_term:
        return paragraph("No loss terms: the logs have no line of a training step.", kind="missing")
    panels = [figure(_loss(term, lines, list(arms)), "") for term, lines in by_term.items()]
    note = "Mean over the seeds; terms as they enter the sum, with their weights. Each point of a long run is a mean."
    return join([arm_legend(arms), grid(panels), paragraph(note, kind="note")])


def _loss(term: str, lines: Mapping[int, charts.Line], arms: Sequence[str]) -> Html:
    label = f"Loss term {term} over the steps, of {', '.join(arms[place] for place in lines)}"
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


def _values(seeds: Mapping[int, Run], name: str) -> dict[int, float]:
    return {seed: run.result.summary[name] for seed, run in seeds.items()}


def _class_mean(seeds: Mapping[int, Run], label: str, name: str) -> float:
    """NaN where the figure is undefined for the class, which is the data's doing and so the same for every seed."""
    values = [run.per_class[label].get(name) for run in seeds.values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan


def _ends(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    return ", ".join(f"{run} ends at {_text(points[-1][1])}" for run, points in lines.items())


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
