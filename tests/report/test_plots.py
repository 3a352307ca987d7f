"""Drawings show their input at its position."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from eyas.comparison.statistics import compare_arms
from eyas.data import read, write_coco
from eyas.report import plots
from eyas.report.comparison_files import draw_curves
from eyas.report.fonts import unwritable
from eyas.report.plots import OBJECT, draw_detections, draw_near_masks, rendered, save_figure, start_at_zero
from eyas.report.verdicts import MISSED, VERDICT_COLOURS, side_by_side
from eyas.runs.results import RunResult
from eyas.types import EyasError, Prediction, Target

CLASSES = ("cat", "dog")


def prediction(*rows: tuple[float, float, float, float, float, int]) -> Prediction:
    values = torch.tensor([row[:5] for row in rows]).reshape(-1, 5)
    return {"boxes": values[:, :4], "scores": values[:, 4], "labels": torch.tensor([row[5] for row in rows]).long()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def grey(height: int = 60, width: int = 120) -> Tensor:
    return torch.full((3, height, width), 0.5)


def coloured(image: np.ndarray) -> np.ndarray:
    """(height, width) bool: where the image is not grey."""
    return np.ptp(image, axis=2) > 60


def test_detections_are_drawn_at_their_boxes(tmp_path: Path) -> None:
    save_figure(tmp_path / "a.png", draw_detections(grey(), prediction((20, 20, 60, 50, 0.9, 1)), CLASSES))
    image = pixels(tmp_path / "a.png")
    assert image.shape[:2] == (240, 480), "small images are enlarged, the aspect kept"
    rows, columns = np.nonzero(coloured(image)[80:])  # below the text above the box
    assert abs(columns.min() - 4 * 20) <= 3 and abs(columns.max() - 4 * 60) <= 3
    assert abs(rows.max() + 80 - 4 * 50) <= 3


def test_detections_below_the_threshold_are_not_drawn(tmp_path: Path) -> None:
    save_figure(
        tmp_path / "a.png", draw_detections(grey(), prediction((20, 20, 60, 50, 0.2, 0)), CLASSES, threshold=0.3)
    )
    assert not coloured(pixels(tmp_path / "a.png")).any()
    save_figure(
        tmp_path / "b.png", draw_detections(grey(), prediction((20, 20, 60, 50, 0.2, 0)), CLASSES, threshold=0.1)
    )
    assert coloured(pixels(tmp_path / "b.png")).any()


def test_a_large_image_keeps_its_size(tmp_path: Path) -> None:
    save_figure(tmp_path / "a.png", draw_detections(grey(500, 700), prediction(), CLASSES))
    image = pixels(tmp_path / "a.png")
    assert image.shape[:2] == (500, 700)
    assert not coloured(image).any()


def test_side_by_side_has_the_truth_and_each_model(tmp_path: Path) -> None:
    box = np.array([[20.0, 20, 60, 50]], np.float32)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    items = [("one", np.full((60, 90, 3), 128, np.uint8), box, np.array([0]))]
    write_coco(tmp_path, "val", CLASSES, [*items, ("none", items[0][1], *nothing)])
    records = read(tmp_path, "val").records
    found = [prediction((20, 20, 60, 50, 0.9, 0)), prediction((2, 2, 9, 9, 0.8, 1))]
    figure = side_by_side(records, {"big": found, "small": [prediction()] * 2}, CLASSES)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["ground truth: 1 object", "big: 1 found, 1 wrong", "small: 0 found, 0 wrong"]
    save_figure(tmp_path / "s.png", figure)
    drawn = pixels(tmp_path / "s.png")
    for colour, panels in {OBJECT: [1, 0, 0], VERDICT_COLOURS["false"]: [0, 1, 0], MISSED: [0, 0, 1]}.items():
        same = (np.abs(drawn.astype(int) - np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])) < 30).all(-1)
        assert [int(third.any()) for third in np.array_split(same, 3, axis=1)] == panels, colour


def test_near_masks_tint_the_near_cells(tmp_path: Path) -> None:
    mask = torch.zeros(1, 6, 12, dtype=torch.bool)
    target: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    save_figure(tmp_path / "none.png", draw_near_masks([grey()], [target], [mask, mask], [10, 10]))
    assert not coloured(pixels(tmp_path / "none.png")).any()
    mask[:, :, 6:] = True
    save_figure(tmp_path / "half.png", draw_near_masks([grey()], [target], [mask], [10]))
    tinted = coloured(pixels(tmp_path / "half.png"))
    left, right = np.array_split(tinted, 2, axis=1)
    assert right.mean() > 0.3 and left.mean() < 0.05


def test_curves_give_each_arm_one_colour(tmp_path: Path) -> None:
    def run(*scores: float) -> RunResult:
        curve = tuple((epoch + 1, {"map": score}) for epoch, score in enumerate(scores))
        return RunResult(curve[-1][1], None, curve, None, None, None)

    runs = {"baseline": {0: run(0.1, 0.2), 1: run(0.2, 0.3)}, "distilled": {0: run(0.4, 0.5)}}
    save_figure(tmp_path / "c.png", draw_curves(compare_arms(runs)))
    image = pixels(tmp_path / "c.png")
    hues = image[np.ptp(image, axis=2) > 120]
    blue, orange = hues[hues[:, 2] > hues[:, 0]], hues[hues[:, 0] > hues[:, 2]]
    assert len(blue) > len(orange) > 0, "two lines are of the baseline, one is distilled"


def test_names_are_drawn_as_they_are_written() -> None:
    """Not as formulas, and where no font has a character, a square stands for it without a warning."""
    names = ("$\\frac{$", "螺栓", "Schraube ☃", "\U000e0021")
    found = prediction(*((20.0, 20.0 + label, 60.0, 50.0, 0.9, label) for label in range(4)))
    texts = [text.get_text() for text in draw_detections(grey(), found, names).axes[0].texts]
    assert texts[0] == "$\\frac{$ 0.90" and texts[2] == "Schraube ☃ 0.90"
    assert texts[3] == "□ 0.90" and unwritable(names)[-1] == names[3]
    assert rendered(lambda: draw_detections(grey(), found, names), "png").startswith(b"\x89PNG")


def test_a_very_large_image_is_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MAX_DRAWN", 500)
    image = torch.zeros(3, 300, 2000, dtype=torch.uint8)
    image[0, :, 1000:] = 255
    figure = draw_detections(image, prediction((1000, 100, 1500, 200, 0.9, 1)), CLASSES)
    assert figure.axes[0].images[0].get_array().shape[:2] == (75, 500)
    with Image.open(BytesIO(rendered(lambda: figure, "png"))) as drawn:
        red = np.asarray(drawn.convert("RGB")).astype(int)[70]
    assert drawn.size == (500, 75)
    assert red[:245, 0].max() < 20 and red[255:, 0].min() > 235, "the right half, where boxes are drawn too"
    assert figure.axes[0].get_xlim() == (0, 2000)


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "a file"
    folder.write_text("")
    with pytest.raises(EyasError, match=r"a\.png: could not be written"):
        save_figure(folder / "a.png", draw_detections(grey(), prediction(), CLASSES))


def test_no_axis_goes_below_zero_where_nothing_is() -> None:
    axes = Figure().subplots()
    axes.plot([0, 100], [0.001, 0.5])
    start_at_zero(axes, "x", "y")
    assert axes.get_xlim()[0] == 0 and axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 0.5
    axes = Figure().subplots()
    axes.plot([5, 6], [-0.1, 0.5])
    before = axes.get_xlim()
    start_at_zero(axes, "x", "y")
    assert axes.get_ylim()[0] < -0.1 and axes.get_xlim() == before
    start_at_zero(axes, "x", whole=True)
    assert axes.get_xlim()[0] == 0
