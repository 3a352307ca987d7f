"""Judged detections on images: each in the colour of its verdict, with the objects that were not found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eyas.data.images import decode
from eyas.evaluation.errors import JudgedImage, judge
from eyas.report.markup import counted
from eyas.report.plots import OBJECT, detection_texts, draw_boxes, show_image
from eyas.types import Prediction, Record

MISSED = "#f0e442"
VERDICT_COLOURS = {
    "correct": "#0a8576",
    "localisation": "#9c6400",
    "class": "#a83f92",
    "duplicate": "#2a78b8",
    "false": "#cc3311",
    "ignored": "#777777",
}
"""Each dark enough for white letters."""
Layer = tuple[Tensor, list[str], list[str]]
"""Boxes, their texts and colours."""


def truth(record: Record, classes: Sequence[str]) -> Layer:
    """The objects of an image with their classes."""
    names = [classes[label] for label in record.labels.tolist()]
    return torch.from_numpy(record.boxes), names, [OBJECT] * len(names)


def layers(record: Record, prediction: Prediction, judged: JudgedImage, classes: Sequence[str]) -> list[Layer]:
    """The objects not found, and the judged detections in the colours of their verdicts."""
    kept = torch.tensor(judged.kept, dtype=torch.int64)
    missed = [index for index, outcome in enumerate(judged.outcomes) if outcome != "found"]
    colours = [VERDICT_COLOURS[verdict] for verdict in judged.verdicts]
    return [
        (torch.from_numpy(record.boxes[missed]), [""] * len(missed), [MISSED] * len(missed)),
        (prediction["boxes"][kept], detection_texts(prediction, kept, classes), colours),
    ]


def side_by_side(
    records: Sequence[Record],
    columns: Mapping[str, Sequence[Prediction]],
    classes: Sequence[str],
    *,
    threshold: float = 0.3,
) -> Figure:
    """One row per image: the ground truth, then what each model found, with the counts of all rows above.

    Args:
        records: the images and their objects.
        columns: name of the model to its predictions, in the frame of the image files.
        classes: class names in label order.
        threshold: lowest score of the detections that are drawn.
    """
    figure = Figure(figsize=(2.4 * (len(columns) + 1), 2.5 * len(records)), dpi=110, layout="constrained")
    grid = figure.subplots(len(records), len(columns) + 1, squeeze=False)
    count = sum(len(record.boxes) for record in records)
    for axes, record in zip(grid[:, 0], records, strict=True):
        show_image(axes, decode(record), f"ground truth: {counted(count, 'object')}" if axes is grid[0, 0] else "")
        draw_boxes(axes, *truth(record, classes))
    for column, (name, predictions) in zip(grid[:, 1:].T, columns.items(), strict=True):
        judged = [judge(*pair, threshold=threshold) for pair in zip(records, predictions, strict=True)]
        title = f"{name}: {sum(each.found for each in judged)} found, {sum(each.wrong for each in judged)} wrong"
        for axes, record, prediction, verdicts in zip(column, records, predictions, judged, strict=True):
            show_image(axes, decode(record), title if axes is column[0] else "")
            for layer in layers(record, prediction, verdicts, classes):
                draw_boxes(axes, *layer)
    return figure
