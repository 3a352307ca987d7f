"""The demo on labelled images of the user's: small copies of them, and a teacher that is trained in minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.commands.demo_task import BUNDLED_TEACHER, DemoTask, train_teacher
from eyas.data import DataSource, read_splits
from eyas.data.options import SplitOptions
from eyas.data.small_copy import common_size, spread_evenly, write_small_copies
from eyas.tools.files import refuse_links
from eyas.tools.progress import Progress
from eyas.types import Size

AREA = 256 * 192
"""Square pixels of a copy: what a teacher and a student learn from within minutes."""
MOST_IMAGES = {"train": 400, "val": 100}
"""Copies of a split, at most."""
BATCH = 8
TEACHER_STEPS, STUDENT_STEPS = 260, 208
"""Optimiser steps, rounded to whole epochs."""
CURVE_POINTS = 4
"""Evaluations of a student."""


def images_task(data: Path, out: Path) -> DemoTask:
    """Small copies of the images below ``out``, and a teacher trained on them from the bundled one.

    Raises:
        EyasError: the folder is not a data set, or an image cannot be read.
    """
    splits = dict(zip(MOST_IMAGES, read_splits(data, SplitOptions()), strict=True))
    size = common_size(splits["train"].records, AREA)
    counts = {name: len(spread_evenly(splits[name].records, most)) for name, most in MOST_IMAGES.items()}
    copied = copy_images(splits, out / "data", size, sum(counts.values()))
    teacher, train_images = out / "teacher", counts["train"]
    options = {
        "dataset.resize.height": size[0],
        "dataset.resize.width": size[1],
        "dataset.batch_size": BATCH,
        "dataset.augment.flip": 0.5,
    }
    pretrained = {"weights": BUNDLED_TEACHER / "model.safetensors"}
    train_teacher(copied, teacher, {**options, **pretrained, **_schedule(TEACHER_STEPS, train_images, evaluations=1)})
    student = {**options, **_schedule(STUDENT_STEPS, train_images, evaluations=CURVE_POINTS)}
    return DemoTask(f"{data}, validation images", copied, teacher, student, {"data": str(data), "image_size": size})


def copy_images(splits: Mapping[str, DataSource], folder: Path, size: Size, count: int) -> Path:
    """Write the copies, ``count`` in all, once. Returns their folder."""
    refuse_links(folder, folder.parent)
    with Progress() as progress:
        task = progress.task("copy", count)
        return write_small_copies(splits, folder, size, MOST_IMAGES, lambda: progress.advance(task))


def _schedule(steps: int, images: int, *, evaluations: int) -> dict[str, Any]:
    epochs = max(1, round(steps * BATCH / images))
    return {"run.epochs": epochs, "run.evaluate_every": math.ceil(epochs / evaluations)}
