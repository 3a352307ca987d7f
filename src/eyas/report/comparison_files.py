"""The files of a comparison: comparison.json, comparison.md and two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyas.comparison.statistics import Comparison, markdown, note, rows, title
from eyas.report.plots import curves, intervals
from eyas.tools.files import make_folder, write_atomic, write_json

JSON = "comparison.json"
MARKDOWN = "comparison.md"


def write_comparison(out: Path, comparison: Comparison, about: Mapping[str, Any]) -> None:
    """Write comparison.json; where a run is finished also comparison.md, comparison.png and curves.png.

    Args:
        out: folder of the comparison; made where it is missing.
        comparison: of the finished runs.
        about: what else comparison.json holds; its ``missing`` names the runs that are not finished.
    """
    make_folder(out)
    write_json(out / JSON, {**asdict(comparison), **about})
    if not comparison.arms:
        return
    text = markdown(rows(comparison), note(about["missing"]))
    write_atomic(out / MARKDOWN, lambda part: part.write_text(text))
    _draw_intervals(out / "comparison.png", comparison)
    _draw_curves(out / "curves.png", comparison)


def _draw_intervals(path: Path, comparison: Comparison) -> None:
    """The mean, interval and seeds of every arm."""
    name, teacher = comparison.metric, comparison.teacher
    found = {arm: values.metrics[name] for arm, values in comparison.arms.items()}
    groups = {arm: (value.mean, value.half_width, value.values) for arm, value in found.items()}
    intervals(path, groups, x=title(name), line=None if teacher is None else ("teacher", teacher[name]))


def _draw_curves(path: Path, comparison: Comparison) -> None:
    """The metric over the epochs of every run."""
    runs = {(arm, seed): run for arm, values in comparison.arms.items() for seed, run in values.runs.items()}
    lines = {
        f"{arm}-{seed}": [(epoch, summary[comparison.metric]) for epoch, summary in run.curve]
        for (arm, seed), run in runs.items()
    }
    groups = {f"{arm}-{seed}": arm for arm, seed in runs}
    curves(path, lines, x="epoch", y=title(comparison.metric), groups=groups)
