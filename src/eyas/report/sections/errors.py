"""Errors by kind: what becomes of the objects, what is wrong with the detections, which classes are confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from eyas.data import DataSource
from eyas.evaluation.confusion import confusion_matrix
from eyas.evaluation.errors import MATCH, OUTCOMES, TOUCH, WRONG, confusions, totals
from eyas.report import charts
from eyas.report.collect import ReportData
from eyas.report.markup import Html, beside, details, figure, heading, join, legend, paragraph, table
from eyas.report.models import Detections
from eyas.report.svg import css_colour, drawing

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
MATRIX_CLASSES = 40
"""A larger matrix is left out; `eyas evaluate --json_file` writes one of any size."""
MATRIX_NOTE = (
    "Rows are the classes of the objects, columns those of the detections that took them, by IoU of at least "
    f"{MATCH:g}. Rows sum to the objects of a class. The last row has the detections that took no object."
)
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
        *_by_kind(outcomes, OUTCOMES, OUTCOME_NAMES, objects, "% of the objects", "Objects by what becomes of them"),
        heading("Detections: what is wrong with them"),
        *_by_kind(verdicts, WRONG, VERDICT_NAMES, objects, "wrong detections for 100 objects", "Detections by verdict"),
    ]
    if len(source.classes) > 1:
        parts.append(_confusions(detections, source.classes))
    if 1 < len(source.classes) <= MATRIX_CLASSES:
        matrices = [_matrix(name, one, source, data.options.threshold) for name, one in detections.items()]
        parts.append(details("Confusion matrices", paragraph(MATRIX_NOTE, kind="note"), *matrices))
    return join(parts)


def definitions(threshold: float) -> str:
    """The kinds of error, in words."""
    return (
        f"Detections with a score of at least {threshold:g}, highest first. Correct: IoU of at least {MATCH:g} with "
        f"an object of its class that no better one has taken. Else badly localised: IoU of {TOUCH:g} to {MATCH:g} "
        f"with an object of its class. Else wrong class: IoU of at least {MATCH:g} with an object of another class. "
        "Else duplicate: an object of its class that is taken. False: all others. Detections on ignore regions do "
        "not count. An object is found when a correct detection took it; else seen as another class, or badly "
        "localised, when such a detection is on it; else missed. The kinds are those of TIDE (Bolya et al., ECCV 2020)."
    )


def _by_kind(
    counts: Counts, drawn: Sequence[str], names: Mapping[str, str], objects: int, axis: str, caption: str
) -> tuple[Html, Html]:
    """A legend, and by detector: stacked bars of some kinds, in percent of the objects, beside a table of all kinds."""
    bars = {name: [100 * found[kind] / max(1, objects) for kind in drawn] for name, found in counts.items()}
    draw = partial(charts.bars, rows=bars, colours=[KIND_COLOURS[kind] for kind in drawn], x=axis)
    label = f"{axis}, by detector: " + ", ".join(names[kind] for kind in drawn) + "; the table has the numbers"
    rows = [[name, *(f"{found[kind]:,}" for kind in names)] for name, found in counts.items()]
    colours = {names[kind]: css_colour(KIND_COLOURS[kind]) for kind in drawn}
    whole = table(caption, ["detector", *names.values()], rows)
    if not objects:
        return join([]), whole
    return legend(colours, label="Colours of the bars"), beside(figure(drawing(draw, label), ""), whole)


def _matrix(name: str, found: Detections, source: DataSource, threshold: float) -> Html:
    """What the objects of each class were taken for, among the classes that occur."""
    counts = confusion_matrix(source.records, source.classes, found.predictions, threshold=threshold)
    kept = [index for index in range(len(source.classes)) if counts[index].any() or counts[:, index].any()]
    nothing = len(source.classes)
    rows = [
        [
            source.classes[row] if row < nothing else "no object",
            *(f"{counts[row, column]:,}" for column in (*kept, nothing)),
        ]
        for row in (*kept, nothing)
    ]
    rows[-1][-1] = ""
    return table(
        f"Confusion matrix of {name}", ["object", *(source.classes[index] for index in kept), "not found"], rows
    )


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
