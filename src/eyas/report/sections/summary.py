"""The table of the comparison, its intervals drawn, the gap closed, and the runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from eyas.comparison.arms import BASELINE, split_schedule
from eyas.comparison.presentation import GAP_CLOSED, PLUS_MINUS, conclusions, rows, tables, without_empty_columns
from eyas.comparison.statistics import Comparison
from eyas.report.charts import LARGE
from eyas.report.collect import ReportData
from eyas.report.comparison_files import draw_intervals
from eyas.report.markup import Html, details, figure, join, paragraph, shown, table
from eyas.report.runs import Run
from eyas.report.svg import drawing
from eyas.runs.results import metric_title


def section(data: ReportData) -> Html:
    comparison, name = data.comparison, metric_title(data.comparison.metric)
    head, *body = without_empty_columns(rows(comparison))
    parts = [
        *(paragraph(sentence) for sentence in conclusions(comparison, data.schedules)),
        table(f"{name} of the last epoch: mean over the seeds", ["arm", *head[1:]], body),
        paragraph(_legend_of_table(comparison), kind="note"),
    ]
    if len(comparison.arms) > 1 or comparison.teacher is not None:
        drawn = figure(_intervals(comparison), f"{name}: mean, 95 % interval, and every seed as a dot.")
        parts.append(drawn)
    for title, (first, *others), words in tables(comparison, data.schedules)[1:]:
        parts += [table(title, ["arm", *first[1:]], others), paragraph(words, kind="note")]
    parts += [paragraph(note, kind="missing") for note in data.found.notes]
    parts.append(details("The runs", _runs(data.found.runs(), comparison.metric)))
    return join(parts)


def _legend_of_table(comparison: Comparison) -> str:
    """The meaning of the columns."""
    if any(len(arm.seeds) > 1 for arm in comparison.arms.values()):
        words = f"{PLUS_MINUS}. "
    else:
        words = "One seed does not show the spread: two trainings that differ only in their seed may differ by more. "
    if BASELINE in {split_schedule(arm)[0] for arm in comparison.arms}:
        words += "Minus baseline is paired by seed. "
        if comparison.teacher is not None:
            words += f"{GAP_CLOSED} "
    else:
        words += "There is no baseline arm, so no gain over the baseline and no gap closed. "
    return words + "Seconds and memory are those of the training."


def _intervals(comparison: Comparison) -> Html:
    name, teacher = comparison.metric, comparison.teacher
    means = ", ".join(f"{arm} {values.metrics[name].mean:.3f}" for arm, values in comparison.arms.items())
    label = f"{metric_title(name)} by arm: {means}" + ("" if teacher is None else f"; teacher {teacher[name]:.3f}")
    return drawing(partial(draw_intervals, comparison=comparison, width=LARGE[0]), label)


def _runs(runs: Sequence[Run], name: str) -> Html:
    body = [
        [str(run.folder), run.arm, str(run.seed), str(run.result.curve[-1][0]), shown(run.result.summary[name])]
        for run in runs
    ]
    return table("The runs of this page", ["folder", "arm", "seed", "epochs", metric_title(name)], body)
