"""The parts of the page about single images: errors by kind, near-object masks, the best and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyas.data import DataSource
from eyas.data.options import Resize
from eyas.evaluation.errors import MATCH, OUTCOMES, TOUCH, WRONG, Judged, confusions, ranked, totals
from eyas.ops.near_objects import AssignmentRule
from eyas.report import charts
from eyas.report.look import Seen
from eyas.report.markup import Html, beside, figure, grid, heading, join, legend, paragraph, picture, table
from eyas.report.masks import some_images
from eyas.report.pictures import MISSED, TRUTH, VERDICT_COLOURS, detections_picture, mask_pictures, truth_picture
from eyas.report.svg import drawing, variable
from eyas.types import Detector, Record

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
"""Places in `eyas.report.plots.COLOURS`."""


def definitions(threshold: float) -> str:
    """What the kinds of error are, in words."""
    return (
        f"Detections with a score of at least {threshold:g}, by falling score. Correct: IoU of at least {MATCH:g} with "
        "an object of its class that no better one has taken. Duplicate: the same, but the object is taken. Wrong "
        f"class: IoU of at least {MATCH:g} with an object of another class. Badly localised: IoU of {TOUCH:g} to "
        f"{MATCH:g} with an object of its class. False: all others, on the background. Detections on ignore regions do "
        "not count. An object is found when a correct detection took it; else seen as another class, or badly "
        "localised, when such a detection is on it; else missed. The kinds are those of TIDE (Bolya et al., ECCV 2020)."
    )


def errors_part(seen: Mapping[str, Seen], source: DataSource, threshold: float) -> Html:
    """What becomes of the objects, what the detections are worth, and which classes are confused."""
    counts = {name: totals(one.judged) for name, one in seen.items()}
    objects = sum(len(record.boxes) for record in source.records)
    shares = {
        name: [100 * outcomes[kind] / max(1, objects) for kind in OUTCOMES] for name, (outcomes, _) in counts.items()
    }
    wrong = {name: [100 * verdicts[kind] / max(1, objects) for kind in WRONG] for name, (_, verdicts) in counts.items()}
    parts = [
        paragraph(definitions(threshold), kind="note"),
        heading(f"Objects: what becomes of the {objects:,}"),
        _legend(OUTCOMES, OUTCOME_NAMES),
        beside(
            _bars(shares, OUTCOMES, OUTCOME_NAMES, "% of the objects"),
            _table(
                "Objects by what becomes of them",
                {name: outcomes for name, (outcomes, _) in counts.items()},
                {kind: OUTCOME_NAMES[kind] for kind in OUTCOMES},
            ),
        ),
        heading("Detections: what is wrong with them"),
        _legend(WRONG, VERDICT_NAMES),
        beside(
            _bars(wrong, WRONG, VERDICT_NAMES, "wrong detections for 100 objects"),
            _table("Detections by verdict", {name: verdicts for name, (_, verdicts) in counts.items()}, VERDICT_NAMES),
        ),
    ]
    if len(source.classes) > 1:
        parts.append(_confusions(seen, source.classes))
    return join(parts)


def masks_part(
    detector: Detector, source: DataSource, resize: Resize, *, psi: float, assignment: AssignmentRule, of: str
) -> Html:
    """The near cells of the teacher's levels on the first images with objects."""
    images, targets = some_images(source, resize)
    pictures = mask_pictures(detector, images, targets, psi=psi, assignment=assignment)
    shown = []
    for target, jpeg in zip(targets, pictures, strict=True):
        name = source.records[target["index"]].image_id
        alt = f"Image {name} with its {len(target['boxes'])} objects and the cells near them, by level"
        shown.append(figure(picture(jpeg, alt), f"image {name}: {_count(len(target['boxes']), 'object')}"))
    note = (
        f"The cells of the teacher's feature levels that are near an object by psi {psi:g}, {assignment} ({of}): where "
        "a student of fine-grained feature imitation copies the teacher. Shaded cells are near, objects are framed."
    )
    return join([paragraph(note, kind="note"), grid(shown, kind="small")])


def pictures_part(seen: Mapping[str, Seen], source: DataSource, columns: Sequence[str], by: str, count: int) -> Html:
    """The worst and the best images of one detector, with what each of several found in them."""
    order = ranked(seen[by].judged)
    worst, best = order[::-1][:count], order[:count]
    note = (
        f"Images by the score of {by}: objects found, among all objects and wrong detections. Below each image: "
        "objects found and not, and wrong detections. Frames have the colour of the verdict; yellow ones without a "
        "name are objects that were not found."
    )
    colours = {VERDICT_NAMES[kind]: colour for kind, colour in VERDICT_COLOURS.items()}
    parts = [
        paragraph(note, kind="note"),
        legend({"object (ground truth)": TRUTH, "object not found": MISSED, **colours}, label="Colours of the frames"),
    ]
    for words, places in (("Worst", worst), ("Best", best)):
        parts.append(heading(f"{words} images of {by}"))
        parts += [_image_row(seen, source, columns, place) for place in places]
    return join(parts)


def _image_row(seen: Mapping[str, Seen], source: DataSource, columns: Sequence[str], place: int) -> Html:
    record = source.records[place]
    truth = picture(truth_picture(record, source.classes), _truth_words(record, source.classes))
    shown = [figure(truth, f"image {record.image_id}: {_count(len(record.boxes), 'object')}")]
    for name in columns:
        prediction, judged = seen[name].predictions[place], seen[name].judged[place]
        words = _judged_words(judged)
        jpeg = detections_picture(record, prediction, judged, source.classes)
        shown.append(
            figure(picture(jpeg, f"Image {record.image_id}, detections of {name}: {words}"), f"{name}: {words}")
        )
    return grid(shown, kind="pictures")


def _bars(rows: Mapping[str, Sequence[float]], kinds: Sequence[str], names: Mapping[str, str], axis: str) -> Html:
    colours = [KIND_COLOURS[kind] for kind in kinds]
    label = f"{axis}, by detector: " + ", ".join(names[kind] for kind in kinds) + "; the table has the numbers"
    return figure(drawing(lambda path: charts.bars(path, rows, colours, x=axis), label), "")


def _table(caption: str, counts: Mapping[str, Mapping[str, int]], kinds: Mapping[str, str]) -> Html:
    """Counts of every detector, a column for each kind under its name."""
    rows = [[name, *(f"{found[kind]:,}" for kind in kinds)] for name, found in counts.items()]
    return table(caption, ["detector", *kinds.values()], rows)


def _legend(kinds: Sequence[str], names: Mapping[str, str]) -> Html:
    return legend({names[kind]: variable(KIND_COLOURS[kind]) for kind in kinds}, label="Colours of the bars")


def _confusions(seen: Mapping[str, Seen], classes: Sequence[str]) -> Html:
    """The pairs of classes that the detectors confuse most, by the sum over them."""
    counts = {name: confusions(one.judged) for name, one in seen.items()}
    every = {pair for found in counts.values() for pair in found}
    pairs = sorted(every, key=lambda pair: (-sum(found[pair] for found in counts.values()), pair))[:PAIRS]
    if not pairs:
        return paragraph("No class was taken for another.", kind="note")
    body = [
        [f"{classes[true]} taken for {classes[said]}", *(f"{found[true, said]:,}" for found in counts.values())]
        for true, said in pairs
    ]
    return table("Classes that are confused most: detections of the wrong class", ["classes", *counts], body)


def _truth_words(record: Record, classes: Sequence[str]) -> str:
    names = [classes[label] for label in record.labels.tolist()]
    what = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"
    return f"Image {record.image_id} with its objects framed: {what}"


def _judged_words(judged: Judged) -> str:
    missing = len(judged.outcomes) - judged.found
    return f"{judged.found} found, {missing} not, {judged.wrong} wrong"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
