"""Drawings show their input at its position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyas.comparison.statistics import compare_arms
from eyas.report.comparison_files import draw_curves
from eyas.report.plots import draw_detections, near_masks, side_by_side
from eyas.runs.results import RunResult
from eyas.types import Prediction, Target

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
    draw_detections(tmp_path / "a.png", grey(), prediction((20, 20, 60, 50, 0.9, 1)), CLASSES)
    image = pixels(tmp_path / "a.png")
    assert image.shape[:2] == (240, 480), "small images are enlarged, the aspect kept"
    rows, columns = np.nonzero(coloured(image)[80:])  # below the text above the box
    assert abs(columns.min() - 4 * 20) <= 3 and abs(columns.max() - 4 * 60) <= 3
    assert abs(rows.max() + 80 - 4 * 50) <= 3


def test_detections_below_the_threshold_are_not_drawn(tmp_path: Path) -> None:
    draw_detections(tmp_path / "a.png", grey(), prediction((20, 20, 60, 50, 0.2, 0)), CLASSES, threshold=0.3)
    assert not coloured(pixels(tmp_path / "a.png")).any()
    draw_detections(tmp_path / "b.png", grey(), prediction((20, 20, 60, 50, 0.2, 0)), CLASSES, threshold=0.1)
    assert coloured(pixels(tmp_path / "b.png")).any()


def test_a_large_image_keeps_its_size(tmp_path: Path) -> None:
    draw_detections(tmp_path / "a.png", grey(500, 700), prediction(), CLASSES)
    image = pixels(tmp_path / "a.png")
    assert image.shape[:2] == (500, 700)
    assert not coloured(image).any()


def test_side_by_side_has_the_truth_and_each_model(tmp_path: Path) -> None:
    target: Target = {"boxes": torch.tensor([[20.0, 20, 60, 50]]), "labels": torch.tensor([0])}
    empty: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = [prediction((20, 20, 60, 50, 0.9, 1)), prediction()]
    side_by_side(
        tmp_path / "s.png", [grey(), grey()], [target, empty], {"big": found, "small": [prediction()] * 2}, CLASSES
    )
    thirds = np.array_split(coloured(pixels(tmp_path / "s.png")), 3, axis=1)
    assert [bool(third.any()) for third in thirds] == [True, True, False]


def test_near_masks_tint_the_near_cells(tmp_path: Path) -> None:
    mask = torch.zeros(1, 6, 12, dtype=torch.bool)
    target: Target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    near_masks(tmp_path / "none.png", [grey()], [target], [mask, mask], ["P3", "P4"])
    assert not coloured(pixels(tmp_path / "none.png")).any()
    mask[:, :, 6:] = True
    near_masks(tmp_path / "half.png", [grey()], [target], [mask], ["P3"])
    tinted = coloured(pixels(tmp_path / "half.png"))
    left, right = np.array_split(tinted, 2, axis=1)
    assert right.mean() > 0.3 and left.mean() < 0.05


def test_curves_give_each_arm_one_colour(tmp_path: Path) -> None:
    def run(*scores: float) -> RunResult:
        curve = tuple((epoch + 1, {"map": score}) for epoch, score in enumerate(scores))
        return RunResult(curve[-1][1], None, curve, None, None, None)

    runs = {"baseline": {0: run(0.1, 0.2), 1: run(0.2, 0.3)}, "distilled": {0: run(0.4, 0.5)}}
    draw_curves(tmp_path / "c.png", compare_arms(runs))
    image = pixels(tmp_path / "c.png")
    hues = image[np.ptp(image, axis=2) > 120]
    blue, orange = hues[hues[:, 2] > hues[:, 0]], hues[hues[:, 0] > hues[:, 2]]
    assert len(blue) > len(orange) > 0, "two lines are of the baseline, one is distilled"
