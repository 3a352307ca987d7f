"""Photographs with boxes, as JPEG for the page: what each detector found, and what the student imitates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from eyas.data.images import decode
from eyas.evaluation.errors import Judged
from eyas.ops.near_objects import AssignmentRule
from eyas.report.masks import draw_masks
from eyas.report.plots import OBJECT, draw_boxes, show_image
from eyas.types import Detector, Prediction, Record, Target

LONGER = 520
"""Pixels of the longer side: about twice what a column of the page is wide."""
DPI = 240
"""Dots per inch, so that the words on the boxes can be read when the picture is half as wide."""
QUALITY = 80
TRUTH = OBJECT
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


def truth_picture(record: Record, classes: Sequence[str]) -> bytes:
    """An image with its objects."""
    names = [classes[label] for label in record.labels.tolist()]
    return _photograph(record, [(torch.from_numpy(record.boxes), names, [TRUTH] * len(names))])


def detections_picture(record: Record, prediction: Prediction, judged: Judged, classes: Sequence[str]) -> bytes:
    """An image with the detections that were judged, by the colour of their verdict, and the objects not found."""
    kept = list(judged.kept)
    labels, scores = prediction["labels"][kept].tolist(), prediction["scores"][kept].tolist()
    texts = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    missed = [place for place, outcome in enumerate(judged.outcomes) if outcome != "found"]
    layers = [
        (torch.from_numpy(record.boxes[missed]), [""] * len(missed), [MISSED] * len(missed)),
        (prediction["boxes"][kept], texts, [VERDICT_COLOURS[verdict] for verdict in judged.verdicts]),
    ]
    return _photograph(record, layers)


def mask_pictures(
    detector: Detector, images: Tensor, targets: Sequence[Target], *, psi: float, assignment: AssignmentRule
) -> list[bytes]:
    """One picture for each image: the near cells of every level, one below the other."""
    colour = "#e8eaed"  # behind the titles, in either mode
    style = {"figure.facecolor": colour, "savefig.facecolor": colour, "savefig.dpi": 200}
    draw = partial(draw_masks, detector=detector, psi=psi, assignment=assignment)
    return [
        _jpeg(partial(draw, images=images[place : place + 1], targets=[target]), style)
        for place, target in enumerate(targets)
    ]


def _photograph(record: Record, layers: Sequence[tuple[Tensor, list[str], list[str]]]) -> bytes:
    """The image of a record with layers of boxes, their texts and colours."""
    scale = LONGER / max(record.width, record.height)
    figure = Figure(figsize=(record.width * scale / DPI, record.height * scale / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    show_image(axes, decode(record))
    for boxes, texts, colours in layers:
        draw_boxes(axes, boxes, texts, colours)
    return _jpeg(lambda path: figure.savefig(path, pil_kwargs={"quality": QUALITY}), {})


def _jpeg(draw: Callable[[Path], None], style: dict[Any, Any]) -> bytes:
    with TemporaryDirectory() as folder, matplotlib.rc_context({"text.parse_math": False, **style}):
        path = Path(folder) / "picture.jpg"
        draw(path)
        return path.read_bytes()
