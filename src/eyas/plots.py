"""Figures: detections and near-object masks drawn on images, curves over a run. Matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from eyas.types import Prediction, Target

COLOURS = tuple(matplotlib.color_sequences["tab10"])
OBJECT = "#12b5a6"
NEAR = "#ff7f0e"


def draw_boxes(axes: matplotlib.axes.Axes, boxes: Tensor, texts: Sequence[str], colours: Sequence[str]) -> None:
    """Boxes (n, 4) with a text above each."""
    for (left, top, right, bottom), text, colour in zip(boxes.tolist(), texts, colours, strict=True):
        frame = matplotlib.patches.Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.4
        )
        axes.add_patch(frame)
        if text:
            style = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
            axes.text(left, top - 1, text, fontsize=6, color="white", va="bottom", bbox=style, clip_on=True)


def show_image(axes: matplotlib.axes.Axes, image: Tensor, title: str = "") -> None:
    """An image (3, H, W) in [0, 1], in pixel coordinates: pixel (0, 0) covers [0, 1] x [0, 1], as boxes count."""
    height, width = image.shape[-2:]
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def draw_detections(
    path: Path, image: Tensor, prediction: Prediction, classes: Sequence[str], *, threshold: float = 0.3
) -> None:
    """One image with its detections of at least ``threshold``, as a PNG of the image's size or a little more."""
    height, width = image.shape[-2:]
    scale = max(1.0, 480 / max(height, width))
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    show_image(axes, image)
    _draw_prediction(axes, prediction, classes, threshold)
    figure.savefig(path)


def _draw_prediction(
    axes: matplotlib.axes.Axes, prediction: Prediction, classes: Sequence[str], threshold: float
) -> None:
    sure = prediction["scores"] >= threshold
    labels = prediction["labels"][sure].tolist()
    texts = [f"{classes[i]} {s:.2f}" for i, s in zip(labels, prediction["scores"][sure].tolist(), strict=True)]
    colours = [matplotlib.colors.to_hex(COLOURS[label % len(COLOURS)]) for label in labels]
    draw_boxes(axes, prediction["boxes"][sure], texts, colours)


def side_by_side(
    path: Path,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    columns: Mapping[str, Sequence[Prediction]],
    classes: Sequence[str],
    *,
    threshold: float = 0.3,
) -> None:
    """One row per image: the ground truth, then the detections of each model, titled by its name."""
    figure = Figure(figsize=(2.4 * (len(columns) + 1), 2.5 * len(images)), dpi=110, layout="constrained")
    grid = figure.subplots(len(images), len(columns) + 1, squeeze=False)
    for row, (axes, image, target) in enumerate(zip(grid, images, targets, strict=True)):
        show_image(axes[0], image, "ground truth" if row == 0 else "")
        names = [classes[label] for label in target["labels"].tolist()]
        draw_boxes(axes[0], target["boxes"], names, [OBJECT] * len(names))
        for place, (name, predictions) in zip(axes[1:], columns.items(), strict=True):
            show_image(place, image, name if row == 0 else "")
            _draw_prediction(place, predictions[row], classes, threshold)
    figure.savefig(path)


def near_masks(
    path: Path, images: Sequence[Tensor], targets: Sequence[Target], masks: Sequence[Tensor], titles: Sequence[str]
) -> None:
    """One row per level, one column per image: the near cells of that level over the image and its boxes.

    Args:
        masks: per level (batch, H, W) bool.
        titles: per level.
    """
    tint = matplotlib.colors.ListedColormap(["#00000000", NEAR])
    figure = Figure(figsize=(2.6 * len(images), 2.7 * len(masks)), dpi=100, layout="constrained")
    grid = figure.subplots(len(masks), len(images), squeeze=False)
    for column, (image, target) in enumerate(zip(images, targets, strict=True)):
        height, width = image.shape[-2:]
        for axes, mask, title in zip(grid[:, column], masks, titles, strict=True):
            share = float(mask[column].float().mean())
            show_image(axes, image, f"{title}   {share:.0%} near")
            near = mask[column].int().cpu().numpy()
            axes.imshow(near, cmap=tint, alpha=0.45, extent=(0, width, height, 0), vmin=0, vmax=1)
            draw_boxes(axes, target["boxes"], [""] * len(target["boxes"]), [OBJECT] * len(target["boxes"]))
            axes.set(xlim=(0, width), ylim=(height, 0))
    figure.savefig(path)


def curves(
    path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, groups: Mapping[str, str]
) -> None:
    """Lines of (x, y) points by name; ``groups`` gives the legend entry, and so the colour, of each line."""
    figure = Figure(figsize=(5.4, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    seen: list[str] = []
    for name, points in lines.items():
        group = groups[name]
        label = None if group in seen else group
        if label:
            seen.append(group)
        axes.plot(*zip(*points, strict=True), color=COLOURS[seen.index(group)], label=label, linewidth=1.6, alpha=0.85)
    axes.set(xlabel=x, ylabel=y)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)
