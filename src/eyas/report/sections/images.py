"""The worst and the best images of the best arm, with what the teacher, the baseline and that arm found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from eyas.comparison.arms import baseline_of
from eyas.data import DataSource
from eyas.data.images import decode
from eyas.evaluation.errors import ranked
from eyas.report.collect import ReportData
from eyas.report.markup import Html, counted, figure, grid, heading, join, legend, paragraph, picture
from eyas.report.models import Detections
from eyas.report.plots import OBJECT, draw_boxes, rendered, show_image
from eyas.report.runs import TEACHER
from eyas.report.sections.errors import VERDICT_NAMES
from eyas.report.verdicts import MISSED, VERDICT_COLOURS, Layer, layers, truth
from eyas.types import Record

LONG_SIDE = 520
"""Pixels of a photograph's longer side: about twice what a column of the page is wide."""
DPI = 240
"""Dots per inch, so that the words on the boxes stay readable at half the width."""
QUALITY = 80


def section(data: ReportData) -> Html:
    source, detections = data.source_and_detections()
    best_arm, count = data.best_arm, data.options.images
    columns = {
        name: detections[name] for name in (TEACHER, baseline_of(best_arm, detections), best_arm) if name in detections
    }
    order = ranked(detections[best_arm].judged)
    note = (
        f"Images by the score of {best_arm}: objects found, among all objects and wrong detections. Below each image: "
        "objects found and not, and wrong detections. Frames have the colour of the verdict; yellow ones without a "
        "name are objects that were not found."
    )
    colours = {VERDICT_NAMES[kind]: colour for kind, colour in VERDICT_COLOURS.items()}
    parts = [
        paragraph(note, kind="note"),
        legend({"object (ground truth)": OBJECT, "object not found": MISSED, **colours}, label="Colours of the frames"),
    ]
    for words, chosen in (("Worst", order[::-1][:count]), ("Best", order[:count])):
        parts.append(heading(f"{words} images of {best_arm}"))
        parts += [_row(columns, source, index) for index in chosen]
    return join(parts)


def _row(columns: Mapping[str, Detections], source: DataSource, index: int) -> Html:
    """One image: its objects, then the judged detections of each detector."""
    record, classes = source.records[index], source.classes
    layer = truth(record, classes)
    names = layer[1]
    what = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"
    jpeg = _photograph(record, [layer])
    objects = picture(jpeg, f"Image {record.image_id} with its objects framed: {what}")
    shown = [figure(objects, f"image {record.image_id}: {counted(len(record.boxes), 'object')}")]
    for name, found in columns.items():
        judged = found.judged[index]
        words = f"{judged.found} found, {len(judged.outcomes) - judged.found} not, {judged.wrong} wrong"
        jpeg = _photograph(record, layers(record, found.predictions[index], judged, classes))
        alt = f"Image {record.image_id}, detections of {name}: {words}"
        shown.append(figure(picture(jpeg, alt), f"{name}: {words}"))
    return grid(shown, kind="pictures")


def _photograph(record: Record, layers: Sequence[Layer]) -> bytes:
    """The image of a record with layers over it, as JPEG."""
    scale = LONG_SIDE / max(record.width, record.height)

    def draw() -> Figure:
        photograph = Figure(figsize=(record.width * scale / DPI, record.height * scale / DPI), dpi=DPI)
        axes = photograph.add_axes((0, 0, 1, 1))
        show_image(axes, decode(record))
        for boxes, texts, colours in layers:
            draw_boxes(axes, boxes, texts, colours)
        return photograph

    return rendered(draw, "jpg", pil_kwargs={"quality": QUALITY})
