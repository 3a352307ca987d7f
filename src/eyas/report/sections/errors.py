"""Errors by kind: what becomes of the objects, what is wrong with the detections, which classes are confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyas.evaluation.errors import MATCH, OUTCOMES, TOUCH, WRONG, confusions, totals
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.colours import css_colour
from eyas.report.markup import Html, beside, figure, heading, join, legend, paragraph, table
from eyas.report.models import Detections
from eyas.report.svg import drawing

ID = "errors"
TITLE = "Errors by kind"
PAIRS = 6
"""Pairs of classes in the table of confusions."""
OUTCOME_NAMES = {
    "found": "found",
    "localisation": "badly localised only",
    "class": "seen as another class only",
    "missed": "missed",
}
VERDICT_NAMES = {
    "correct": "correct",
    "localisation": "badly localised",
    "class": "wrong class",
    "duplicate": "duplicate",
    "false": "false",
    "ignored": "on an ignore region",
}
KIND_COLOURS = {"found": 2, "localisation": 1, "class": 4, "missed": 3, "duplicate": 0, "false": 3}
"""Indices in `eyas.report.plots.COLOURS`."""
Counts = Mapping[str, Mapping[str, int]]
"""Detector -> kind -> how many."""


def section(data: ReportData) -> Html:
    source, detections = data.source_and_detections()
    counts = {name: totals(one.judged) for name, one in detections.items()}
    outcomes, verdicts = ({name: both[part] for name, both in counts.items()} for part in (0, 1))
    objects = sum(len(record.boxes) for record in source.records)
    parts = [
        paragraph(definitions(data.options.threshold), kind="note"),
        heading(f"Objects: what becomes of the {objects:,}"),
        _legend(OUTCOMES, OUTCOME_NAMES),
        beside(
            _bars(outcomes, objects, OUTCOMES, OUTCOME_NAMES, "% of the objects"),
            _table("Objects by what becomes of them", outcomes, {kind: OUTCOME_NAMES[kind] for kind in OUTCOMES}),
        ),
        heading("Detections: what is wrong with them"),
        _legend(WRONG, VERDICT_NAMES),
        beside(
            _bars(verdicts, objects, WRONG, VERDICT_NAMES, "wrong detections for 100 objects"),
            _table("Detections by verdict", verdicts, VERDICT_NAMES),
        ),
    ]
    if len(source.classes) > 1:
        parts.append(_confusions(detections, source.classes))
    return join(parts)


def definitions(threshold: float) -> str:
    """The kinds of error, in words."""
    return (
        f"Detections with a score of at least {threshold:g}, by falling score. Correct: IoU of at least {MATCH:g} with "
        "an object of its class that no better one has taken. Duplicate: the same, but the object is taken. Wrong "
        f"class: IoU of at least {MATCH:g} with an object of another class. Badly localised: IoU of {TOUCH:g} to "
        f"{MATCH:g} with an object of its class. False: all others, on the background. Detections on ignore regions do "
        "not count. An object is found when a correct detection took it; else seen as another class, or badly "
        "localised, when such a detection is on it; else missed. The kinds are those of TIDE (Bolya et al., ECCV 2020)."
    )


def _bars(counts: Counts, objects: int, kinds: Sequence[str], names: Mapping[str, str], axis: str) -> Html:
    """Stacked bars, a row for each detector, in percent of the objects."""
    rows = {name: [100 * found[kind] / max(1, objects) for kind in kinds] for name, found in counts.items()}
    colours = [KIND_COLOURS[kind] for kind in kinds]
    label = f"{axis}, by detector: " + ", ".join(names[kind] for kind in kinds) + "; the table has the numbers"
    return figure(drawing(lambda path: charts.bars(path, rows, colours, x=axis), label), "")


def _table(caption: str, counts: Counts, kinds: Mapping[str, str]) -> Html:
    """Counts of every detector, a column for each kind under its name."""
    rows = [[name, *(f"{found[kind]:,}" for kind in kinds)] for name, found in counts.items()]
    return table(caption, ["detector", *kinds.values()], rows)


def _legend(kinds: Sequence[str], names: Mapping[str, str]) -> Html:
    return legend({names[kind]: css_colour(KIND_COLOURS[kind]) for kind in kinds}, label="Colours of the bars")


def _confusions(detections: Mapping[str, Detections], classes: Sequence[str]) -> Html:
    """The pairs of classes that the detectors confuse most, by the sum over them."""
    counts = {name: confusions(one.judged) for name, one in detections.items()}
    every = {pair for found in counts.values() for pair in found}
    pairs = sorted(every, key=lambda pair: (-sum(found[pair] for found in counts.values()), pair))[:PAIRS]
    if not pairs:
        return paragraph("No class was taken for another.", kind="note")
    body = [
        [f"{classes[true]} taken for {classes[said]}", *(f"{found[true, said]:,}" for found in counts.values())]
        for true, said in pairs
    ]
    return table("Classes that are confused most: detections of the wrong class", ["classes", *counts], body)
