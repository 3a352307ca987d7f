"""The charts that only the report has; `eyas.report.comparison_files` has the curves and the intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from eyas.report.plots import COLOURS, clean_axes, start_at_zero
from eyas.report.svg import TEXT_COLOUR

Line = tuple[Sequence[float], Sequence[float]]
"""x and y."""
Inches = tuple[float, float]
"""Width and height."""
Dot = tuple[float, float, float | None]
"""Cost, accuracy, and half the interval of the accuracy; None where there is none."""
SMALL = (3.3, 2.5)
"""Inches of a chart that stands beside others."""
LARGE = (4.5, 3.0)
"""Inches of a chart that stands alone or beside its table; a wider one, words included, would shrink on a phone."""


def lines(
    by_arm: Mapping[int, Line],
    *,
    x: str,
    y: str,
    title: str,
    unit: bool = False,
    log: bool = False,
    size: Inches = SMALL,
) -> Figure:
    """A small chart of one line for each arm.

    Args:
        by_arm: colour index of an arm -> its line.
        x, y, title: labels of the axes, and the title above them.
        unit: both axes go from 0 to 1.
        log: the y axis is logarithmic.
        size: inches.
    """
    figure, axes = _chart(title, x, y, size)
    for index, (across, up) in by_arm.items():
        axes.plot(across, up, color=_colour(index), linewidth=1.3, alpha=0.9)
    if log:
        axes.set_yscale("log")
    if unit:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    else:
        start_at_zero(axes, "y", whole=not log)
        axes.ticklabel_format(axis="x", scilimits=(-3, 6))
    return figure


def plane(dots: Mapping[int, Dot], *, x: str, y: str) -> Figure:
    """Detectors by cost and accuracy, by colour index; the teacher's dot is a square. Titles of the axes: x, y."""
    figure, axes = _chart("", x, y, SMALL)
    for index, (cost, accuracy, half_width) in dots.items():
        marker, colour = "s" if index == TEXT_COLOUR else "o", _colour(index)
        axes.errorbar(cost, accuracy, yerr=half_width, fmt=marker, markersize=6, color=colour, capsize=3, linewidth=1.2)
    axes.set_xlim(left=0, right=max((dot[0] for dot in dots.values()), default=1.0) * 1.12)
    axes.margins(y=0.2)
    start_at_zero(axes, "y")
    return figure


def dots(rows: Sequence[str], by_arm: Mapping[int, Sequence[float]], *, x: str) -> Figure:
    """A row for each class and a dot for each arm in it.

    Args:
        rows: class names, from the top.
        by_arm: colour index of an arm -> one value for each row, NaN where there is none.
        x: title of the x axis.
    """
    figure, axes = _empty((LARGE[0], 0.8 + 0.27 * len(rows)))
    shift = np.linspace(-1, 1, len(by_arm)) * min(0.22, 0.05 * (len(by_arm) - 1))
    for (index, values), offset in zip(by_arm.items(), shift, strict=True):
        axes.scatter(values, np.arange(len(rows)) + offset, s=24, color=_colour(index), linewidths=0)
    axes.set(xlabel=x, yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    return figure


def bars(rows: Mapping[str, Sequence[float]], colours: Sequence[int], *, x: str) -> Figure:
    """Stacked horizontal bars, a row for each detector.

    Args:
        rows: name -> length of each part.
        colours: index in `eyas.report.plots.COLOURS` of each part.
        x: title of the x axis.
    """
    figure, axes = _empty((LARGE[0], 1.0 + 0.3 * len(rows)), grid="x")
    left = np.zeros(len(rows))
    for part, colour in enumerate(colours):
        lengths = np.array([values[part] for values in rows.values()], dtype=np.float64)
        axes.barh(range(len(rows)), lengths, left=left, height=0.62, color=COLOURS[colour], linewidth=0)
        left += lengths
    axes.set(xlabel=x, yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6))
    return figure


def binned(points: Sequence[tuple[float, float]], count: int = 120) -> Line:
    """At most ``count`` points, each the mean of neighbours: a long run must not make a heavy page."""
    groups = np.array_split(np.asarray(points, dtype=np.float64).reshape(-1, 2), min(count, max(1, len(points))))
    means = [group.mean(axis=0) for group in groups if len(group)]
    return [float(mean[0]) for mean in means], [float(mean[1]) for mean in means]


def _colour(index: int) -> ColorType:
    return "#000000" if index == TEXT_COLOUR else COLOURS[index % len(COLOURS)]


def _chart(title: str, x: str, y: str, size: Inches) -> tuple[Figure, Axes]:
    figure, axes = _empty(size)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=9)
    return figure, axes


def _empty(size: Inches, grid: Literal["x", "both"] = "both") -> tuple[Figure, Axes]:
    """A chart with its grid below what is drawn later."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    clean_axes(axes, grid=grid)
    axes.set_axisbelow(True)
    return figure, axes
