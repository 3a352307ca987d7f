"""Drawings by matplotlib: detections and near-object masks on images, variances of channels. No display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from eyas.ops.pixels import as_float
from eyas.report.fonts import families, writable
from eyas.tools.files import write_atomic
from eyas.types import Prediction, Target

COLOURS = tuple(matplotlib.color_sequences["tab10"])
OBJECT = "#12b5a6"
NEAR = "#ff7f0e"
MAX_DRAWN = 4096
"""Pixels of the longer side of a drawn image."""
LABEL_ROOM = 0.07
"""The share of an image's height that the text above a box takes."""
VARIANCE_STYLES: Mapping[str, Mapping[str, Any]] = {
    "whole": {"color": "#333333", "linewidth": 1.4, "zorder": 3},
    "near": {"color": "#d55e00", "linestyle": "none", "marker": "^", "markersize": 3.5},
    "far": {"color": "#0072b2", "linestyle": "none", "marker": "o", "markersize": 3},
}
"""Vermilion and blue of Okabe and Ito, distinct to colour-blind readers, each with its own marker."""


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure, whole or not at all. Raises EyasError like `eyas.tools.files.write_atomic`."""
    content = BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    write_atomic(path, lambda part: part.write_bytes(content.getbuffer()))


def rendered(draw: Callable[[], Figure], form: str, style: Mapping[str, Any] | None = None, **options: Any) -> bytes:
    """What ``draw`` draws, as the content of a file.

    Args:
        draw: makes the figure.
        form: svg, jpg or png.
        style: matplotlib's rc parameters while drawing.
        options: of `matplotlib.figure.Figure.savefig`.
    """
    content = BytesIO()
    parameters: dict[Any, Any] = {"text.parse_math": False, **(style or {})}  # a class may be called $x$
    with matplotlib.rc_context(parameters):
        draw().savefig(content, format=form, **options)
    return content.getvalue()


def clean_axes(axes: Axes, *, grid: Literal["x", "both"] = "both") -> None:
    """A pale grid, and no frame at the top and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)


def start_at_zero(axes: Axes, *names: Literal["x", "y"], whole: bool = False) -> None:
    """End an axis at 0 where nothing is drawn below it; with ``whole``, begin it there."""
    for name in names:
        low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
        data = axes.dataLim.intervalx if name == "x" else axes.dataLim.intervaly
        if data.min() >= 0 and (whole or low < 0):
            axes.set(**{f"{name}lim": (0, high)})


def draw_boxes(axes: Axes, boxes: Tensor, texts: Sequence[str], colours: Sequence[str]) -> None:
    """Boxes (n, 4) with a text above each."""
    for (left, top, right, bottom), text, colour in zip(boxes.tolist(), texts, colours, strict=True):
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4)
        axes.add_patch(frame)
        if text:
            style = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
            # Above the box, or inside it where there is no room above.
            first, last = sorted(axes.get_ylim())
            y, side = (top - 1, "bottom") if top - first > LABEL_ROOM * (last - first) else (top + 1, "top")
            words: dict[str, Any] = {"fontsize": 6, "fontfamily": families(text), "color": "white", "parse_math": False}
            axes.text(left, y, writable(text), va=side, bbox=style, clip_on=True, **words)


def show_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """An image (3, H, W), uint8 or in [0, 1]. Pixel (0, 0) covers [0, 1] x [0, 1], as boxes count.

    Sides above `MAX_DRAWN` are drawn smaller: matplotlib takes some 30 bytes for each pixel.
    """
    height, width = image.shape[-2:]
    if max(height, width) > MAX_DRAWN:
        shrink = MAX_DRAWN / max(height, width)
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    axes.imshow(as_float(image).permute(1, 2, 0).clamp(0, 1).cpu().numpy(), extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(writable(title), fontsize=8, fontfamily=families(title), parse_math=False)


def draw_detections(image: Tensor, prediction: Prediction, classes: Sequence[str], *, threshold: float = 0.3) -> Figure:
    """One image with its detections of at least ``threshold``, of the image's size; small ones are enlarged.

    The longer side has 480 pixels at least and `MAX_DRAWN` at most.
    """
    height, width = image.shape[-2:]
    scale = min(max(1.0, 480 / max(height, width)), MAX_DRAWN / max(height, width))
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    show_image(axes, image)
    _draw_prediction(axes, prediction, classes, threshold)
    return figure


def detection_texts(prediction: Prediction, kept: Tensor, classes: Sequence[str]) -> list[str]:
    """Class and score of the kept detections, as ``cat 0.93``; ``kept`` is an index or a mask of them."""
    labels, scores = prediction["labels"][kept].tolist(), prediction["scores"][kept].tolist()
    return [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]


def _draw_prediction(axes: Axes, prediction: Prediction, classes: Sequence[str], threshold: float) -> None:
    sure = prediction["scores"] >= threshold
    labels = prediction["labels"][sure].tolist()
    colours = [matplotlib.colors.to_hex(COLOURS[label % len(COLOURS)]) for label in labels]
    draw_boxes(axes, prediction["boxes"][sure], detection_texts(prediction, sure, classes), colours)


def draw_near_masks(
    images: Sequence[Tensor], targets: Sequence[Target], masks: Sequence[Tensor], strides: Sequence[int]
) -> Figure:
    """One row per level, one column per image: the near cells of that level over the image and its boxes.

    Args:
        masks: per level (batch, H, W) bool.
        strides: per level, pixels per cell. A map may reach beyond the image, where the detector pads inside.
    """
    tint = matplotlib.colors.ListedColormap(["#00000000", NEAR])
    figure = Figure(figsize=(2.6 * len(images), 2.7 * len(masks)), dpi=100, layout="constrained")
    grid = figure.subplots(len(masks), len(images), squeeze=False)
    for column, (image, target) in enumerate(zip(images, targets, strict=True)):
        height, width = image.shape[-2:]
        for row, (mask, stride) in enumerate(zip(masks, strides, strict=True)):
            axes, near = grid[row, column], mask[column].cpu()
            bottom, right = (cells * stride for cells in near.shape)
            share = float(near.float().mean())
            show_image(axes, image, f"stride {stride}   {share:.0%} near")
            axes.imshow(near.int().numpy(), cmap=tint, alpha=0.45, extent=(0, right, bottom, 0), vmin=0, vmax=1)
            draw_boxes(axes, target["boxes"], [""] * len(target["boxes"]), [OBJECT] * len(target["boxes"]))
            axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def channel_variances(
    levels: Mapping[str, Mapping[str, Tensor | None]], *, title: str = "Variance of the teacher's features"
) -> Figure:
    """One panel per level: the variance of each channel over the whole map, near objects and far from them.

    Args:
        levels: panel title -> ``whole``, ``near`` and ``far``, (C,) each, or None where there is no such cell.
            Channels are sorted by the first of them, so that a channel has the same x in all three.
    """
    figure = Figure(figsize=(1.2 + 3.6 * len(levels), 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for axes, (name, variances) in zip(panels, levels.items(), strict=True):
        known = {where: values.cpu() for where, values in variances.items() if values is not None}
        order = next(iter(known.values())).argsort(descending=True) if known else None
        for where, values in known.items():
            # A constant channel cannot be drawn on a log axis.
            shown = values[order].where(values[order] > 0, float("nan")).numpy()
            axes.plot(range(1, len(shown) + 1), shown, label=where, **VARIANCE_STYLES[where])
        if any(bool((values > 0).any()) for values in known.values()):
            axes.set_yscale("log")
        axes.set(xlabel="channel, by falling variance of the whole map", ylabel="variance over cells")
        axes.set_title(name, fontsize=9, parse_math=False)
        clean_axes(axes)
        if known:
            axes.legend(frameon=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
