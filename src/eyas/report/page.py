"""The page of a report: a title, a lead, and the sections. It needs no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eyas.report.collect import LeftOut, ReportData
from eyas.report.markup import Html, join, page, paragraph
from eyas.report.sections import classes, cost, curves, errors, images, masks, precision_recall, summary
from eyas.runs.results import metric_title

NAMED = 4
"""The page's title names the arms up to this number, and counts them above it."""
SECTIONS: Mapping[str, tuple[str, Callable[[ReportData], Html]]] = {
    "summary": ("Summary", summary.section),
    "curves": ("Curves", curves.section),
    "classes": ("Average precision by class", classes.section),
    "cost": ("Size and latency against accuracy", cost.section),
    "precision-recall": ("Precision and recall", precision_recall.section),
    "errors": ("Errors by kind", errors.section),
    "masks": ("Near-object masks", masks.section),
    "images": ("Worst and best images", images.section),
}
"""Anchor -> heading, and the function of its content, which raises LeftOut where the data do not suffice."""


def make_page(data: ReportData) -> str:
    """The page, as HTML."""
    arms = list(data.found.arms)
    shown = ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
    sections = {}
    for name, (heading, section) in SECTIONS.items():
        try:
            sections[name] = heading, section(data)
        except LeftOut as reason:
            sections[name] = heading, paragraph(f"Left out: {reason}", kind="missing")
    return page(f"Eyas report: {shown}", _lead(data), sections)


def _lead(data: ReportData) -> Html:
    """The subject of the page, in a few sentences."""
    found = data.found
    seeds = sorted({run.seed for run in found.runs()})
    words = f"Runs: {len(found.runs())}. Arms: {', '.join(found.arms)}. Seeds: {', '.join(map(str, seeds))}. "
    parts = [paragraph(words + f"Ranked by {metric_title(data.comparison.metric)}.")]
    if data.source is not None:
        names = ", ".join(run.name for run in data.runs.values())
        count, split = len(data.source.records), data.source.split
        words = f"Detections are those of one run for each arm ({names}) on the {count:,} images of {split}."
        parts.append(paragraph(words, kind="note"))
    if found.teachers:
        names = ", ".join(run.name for run in found.teachers)
        words = f"Not an arm, since other runs have it as their teacher: {names}."
        parts.append(paragraph(words, kind="note"))
    return join([*parts, *(paragraph(note, kind="missing") for note in data.notes)])
