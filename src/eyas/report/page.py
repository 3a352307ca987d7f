"""The page of a report: a title, a lead, and the sections. It needs no network."""

from __future__ import annotations

from typing import Protocol

from eyas.comparison.statistics import title
from eyas.report.collect import LeftOut, ReportData
from eyas.report.markup import Html, join, page, paragraph
from eyas.report.sections import classes, cost, curves, errors, images, masks, precision_recall, summary

NAMED = 4
"""The page's title names the arms up to this number, and counts them above it."""


class Section(Protocol):
    """A heading of the page and what stands below it: one module of `eyas.report.sections`.

    Attributes:
        ID: its anchor.
        TITLE: its heading.
    """

    @property
    def ID(self) -> str: ...
    @property
    def TITLE(self) -> str: ...

    def section(self, data: ReportData) -> Html:
        """Its content. Raises LeftOut where the data do not suffice."""
        ...


SECTIONS: tuple[Section, ...] = (summary, curves, classes, cost, precision_recall, errors, masks, images)


def make_page(data: ReportData) -> str:
    """The page, as HTML."""
    arms = list(data.arms)
    heading = ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
    sections = {section.ID: (section.TITLE, _content(section, data)) for section in SECTIONS}
    return page(f"Eyas report: {heading}", _lead(data), sections)


def _content(section: Section, data: ReportData) -> Html:
    try:
        return section.section(data)
    except LeftOut as reason:
        return paragraph(f"Left out: {reason}", kind="missing")


def _lead(data: ReportData) -> Html:
    """The subject of the page, in a few sentences."""
    found = data.found
    seeds = sorted({run.seed for run in found.runs()})
    words = f"Runs: {len(found.runs())}. Arms: {', '.join(data.arms)}. Seeds: {', '.join(map(str, seeds))}. "
    words += f"Ranked by {title(data.metric)}."
    parts = [paragraph(words)]
    if data.source is not None:
        names = ", ".join(run.folder.name for run in data.runs.values())
        count, split = len(data.source.records), data.source.split
        words = f"Detections are those of one run for each arm ({names}) on the {count:,} images of {split}."
        parts.append(paragraph(words, kind="note"))
    if found.teachers:
        words = f"Not an arm, since other runs have it as their teacher: {', '.join(found.teachers)}."
        parts.append(paragraph(words, kind="note"))
    return join([*parts, *(paragraph(note, kind="missing") for note in data.notes)])
