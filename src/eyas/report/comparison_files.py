"""The files of a comparison: comparison.json, comparison.md and its pictures, which the report has too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eyas.comparison.arms import split_schedule
from eyas.comparison.presentation import as_markdown
from eyas.comparison.schedules import Schedules
from eyas.comparison.statistics import Comparison, Reference
from eyas.report.plots import COLOURS, clean_axes, save_figure, start_at_zero
from eyas.runs.results import metric_title
from eyas.tools.files import make_folder, write_json, write_text

JSON = "comparison.json"
MARKDOWN = "comparison.md"


def write_comparison(
    out: Path,
    comparison: Comparison,
    about: Mapping[str, Any],
    schedules: Schedules | None = None,
    reference: Reference | None = None,
) -> None:
    """Write comparison.json; where a run is finished also comparison.md, comparison.png and curves.png.

    Args:
        out: folder of the comparison; created if missing.
        comparison: the comparison of the finished runs.
        about: further content of comparison.json; its ``missing`` names the runs that are not finished.
        schedules: the comparison over schedules and time, which adds to the first two files, and seconds.png.
        reference: every arm beside one of them, which adds to the first two files.
    """
    make_folder(out)
    asked = {"schedules": schedules, "reference": reference}
    more = {name: asdict(found) for name, found in asked.items() if found is not None}
    write_json(out / JSON, {**asdict(comparison), **more, **about})
    if not comparison.arms:
        return
    write_text(out / MARKDOWN, as_markdown(comparison, schedules, about["missing"], reference))
    save_figure(out / "comparison.png", draw_intervals(comparison))
    save_figure(out / "curves.png", draw_curves(comparison))
    if schedules is not None and schedules.curves:
        save_figure(out / "seconds.png", draw_seconds(comparison, schedules))


def draw_intervals(comparison: Comparison, *, width: float = 5.6) -> Figure:
    """A row per arm: the mean of the metric with its interval, and a dot per seed; the teacher is a dashed line.

    ``width`` is in inches.
    """
    name, teacher, count = comparison.metric, comparison.teacher, len(comparison.arms)
    figure = Figure(figsize=(width, 0.9 + 0.36 * count), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row, arm in enumerate(comparison.arms.values()):
        found, colour = arm.metrics[name], COLOURS[row % len(COLOURS)]
        axes.scatter(found.values, [row - 0.22] * len(found.values), s=12, color=colour, alpha=0.5, linewidths=0)
        style: dict[str, Any] = {"fmt": "D", "markersize": 4, "color": colour, "capsize": 3, "linewidth": 1.6}
        axes.errorbar(found.mean, row, xerr=found.half_width, **style)
    if teacher is not None:
        axes.axvline(teacher[name], color="0.4", linestyle="--", linewidth=1)
        axes.text(teacher[name], -0.7, "teacher", fontsize=8, color="0.4", ha="center", va="bottom")
    axes.set(
        xlabel=metric_title(name), yticks=range(count), yticklabels=list(comparison.arms), ylim=(count - 0.4, -0.7)
    )
    start_at_zero(axes, "x")
    clean_axes(axes, grid="x")
    return figure


def draw_curves(comparison: Comparison, *, size: tuple[float, float] = (5.4, 3.4)) -> Figure:
    """The metric over the epochs, a line per run in the colour of its arm. ``size`` is in inches."""
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, (name, arm) in enumerate(comparison.arms.items()):
        for nth, run in enumerate(arm.runs.values()):
            label = None if nth else name
            points = zip(*((epoch, summary[comparison.metric]) for epoch, summary in run.curve), strict=True)
            axes.plot(*points, color=COLOURS[index % len(COLOURS)], label=label, linewidth=1.6, alpha=0.85)
    axes.set(xlabel="epoch", ylabel=metric_title(comparison.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    start_at_zero(axes, "y")
    clean_axes(axes)
    many = len(comparison.arms) > len(COLOURS)
    axes.legend(frameon=False, **({"fontsize": 6, "ncols": 2} if many else {}))
    return figure


def draw_seconds(comparison: Comparison, schedules: Schedules, *, size: tuple[float, float] = (5.4, 3.4)) -> Figure:
    """The metric over the seconds of training: for each arm and schedule the mean over its runs.

    At its end are a dot for each seed and the epochs of the schedule. An arm has one colour, whatever the schedule.
    ``size`` is in inches.
    """
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots()
    arms = {name: split_schedule(name) for name in schedules.curves}
    colours = {arm: COLOURS[at % len(COLOURS)] for at, arm in enumerate(dict.fromkeys(arm for arm, _ in arms.values()))}
    labelled: set[str] = set()
    for name, curve in schedules.curves.items():
        arm, epochs = arms[name]
        label = None if arm in labelled else arm
        labelled.add(arm)
        axes.plot(*zip(*curve, strict=True), color=colours[arm], label=label, linewidth=1.3, alpha=0.85)
        last = comparison.arms[name].metrics[comparison.metric].values
        axes.scatter([curve[-1][0]] * len(last), last, s=8, color=colours[arm], alpha=0.5, linewidths=0)
        if epochs is not None:
            axes.annotate(str(epochs), curve[-1], (3, 1), textcoords="offset points", fontsize=7, color=colours[arm])
    axes.set(xlabel="seconds of training, without evaluations", ylabel=metric_title(comparison.metric))
    start_at_zero(axes, "x", "y")
    clean_axes(axes)
    axes.legend(frameon=False)
    return figure
