"""Images of a data set with their labels: as they are in the files, and as a training sees them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from eyas.data.dataset import DetectionDataset, Draw, ground_truth
from eyas.data.formats.records import DataSource
from eyas.data.images import decode
from eyas.data.transforms import Transform
from eyas.report.plots import NEAR, OBJECT, draw_boxes, show_image
from eyas.types import Target

IMAGES = 6


def labelled(source: DataSource, transform: Transform, *, samples: int, images: int = IMAGES) -> Figure:
    """One row per image: the file with its labels, and ``samples`` of what the transform makes of it.

    Args:
        source: a split; images with objects are taken, spread evenly over it, or any where none has objects.
        transform: that of a training or an evaluation; sample k is what a run of seed 0 sees in epoch k.
        samples: how many.
        images: number of rows.
    """
    everything = range(len(source.records))
    full = [index for index in everything if len(source.records[index].boxes)] or list(everything)
    chosen = full[:: max(1, len(full) // images)][:images]
    dataset = DetectionDataset(source, transform)
    figure = Figure(figsize=(2.6 * (samples + 1), 2.6 * len(chosen)), dpi=110, layout="constrained")
    for row, index in zip(figure.subplots(len(chosen), samples + 1, squeeze=False), chosen, strict=True):
        record = source.records[index]
        _draw(row[0], decode(record), ground_truth(record), source, record.path.name)
        for epoch, axes in enumerate(row[1:]):
            image, target = dataset[Draw(index, epoch, 0)]
            _draw(axes, image, target, source, f"epoch {epoch + 1}: {image.shape[-1]}x{image.shape[-2]}")
    return figure


def _draw(axes: Axes, image: Tensor, target: Target, source: DataSource, title: str) -> None:
    show_image(axes, image, title)
    names = [source.classes[label] for label in target["labels"].tolist()]
    draw_boxes(axes, target["boxes"], names, [OBJECT] * len(names))
    regions = target["ignore"]
    draw_boxes(axes, regions, ["ignored"] * len(regions), [NEAR] * len(regions))
