"""Four images to train on and two to evaluate on, in the layout of a recipe's data set, and its options made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from PIL import Image
from torch import Tensor

from eyas.data import write_coco
from eyas.data.digits import CLASSES
from eyas.data.formats.kitti import KITTI_CLASSES

HEIGHT, WIDTH = 64, 96
VOC_NAMES = ("aeroplane", "person", "train")
COCO_NAMES = ("person", "cup", "zebra")
Split = Sequence[tuple[str, np.ndarray, Tensor, Tensor]]


def images(start: int, count: int, classes: int) -> Split:
    """(name, pixels, boxes, labels): one object of every class on noise, 40 pixels wide and high or a little less."""
    made = []
    for number in range(start, start + count):
        random = default_rng(number)
        pixels = random.integers(90, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        boxes = []
        for label in range(classes):
            width, height = (int(side) for side in random.integers(28, 41, 2))
            x, y = int(random.integers(0, WIDTH - width)), int(random.integers(0, HEIGHT - height))
            pixels[y : y + height, x : x + width] = 40 + 80 * label
            boxes.append([x, y, x + width, y + height])
        made.append((f"{number:06d}", pixels, torch.tensor(boxes, dtype=torch.float32), torch.arange(classes)))
    return made


def coco(root: Path, splits: dict[str, Split]) -> None:
    """With the year that COCO's own files have."""
    for split, items in splits.items():
        written = write_coco(root, split, COCO_NAMES, items)
        written.rename(written.with_name(f"instances_{split}2017.json"))
        (root / "images" / split).rename(root / f"{split}2017")


def voc(root: Path, splits: dict[str, Split]) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, items in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name, *_ in items))
        for name, pixels, boxes, labels in items:
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
            objects = "".join(
                f"<object><name>{VOC_NAMES[label]}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1:.0f}</xmin>"
                f"<ymin>{y1 + 1:.0f}</ymin><xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
                for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True)
            )
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def kitti(root: Path, splits: dict[str, Split]) -> None:
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for split, items in splits.items():
        (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name, *_ in items))
        for name, pixels, boxes, labels in items:
            Image.fromarray(pixels).save(root / "training" / "image_2" / f"{name}.png")
            lines = [
                f"{KITTI_CLASSES[label].capitalize()} 0.00 0 -1.5 {x1:.2f} {y1:.2f} {x2:.2f} {y2:.2f} 1 1 1 1 1 30 0\n"
                for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True)
            ]
            (root / "training" / "label_2" / f"{name}.txt").write_text("".join(lines))


def digits(root: Path, splits: dict[str, Split]) -> None:
    for split, items in splits.items():
        write_coco(root, split, CLASSES, items)


WRITERS: dict[str, Callable[[Path, dict[str, Split]], None]] = {
    "bccd": voc,
    "bccd_dfine": voc,
    "bccd_two_stage": voc,
    "bccd_yolov9": voc,
    "coco": coco,
    "demo": digits,
    "digits": digits,
    "kitti": kitti,
    "voc07": voc,
}
"""Folder of recipes -> what writes data as its data set is laid out."""


def write_data(root: Path, folder: str, train: str, val: str) -> Path:
    """A data set for the recipes of a folder, with splits of these names."""
    WRITERS[folder](root, {train: images(0, 4, 3), val: images(100, 2, 3)})
    return root


def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """The options that make a recipe's training two steps of a second or so: size, batch, heads, proposals, weights.

    Random weights need BatchNorm that adapts, so frozen ones are not.
    """
    options = dict(recipe.get("options", {}))
    if recipe["model"] == "faster_rcnn":
        options |= {"proposals_train": 20, "proposals_test": 5, "rpn_samples": 32, "roi_samples": 4}
        options |= {name: 100 for name in options if name.startswith("pre_nms_")}
        if not recipe["backbone"].endswith("_c4"):
            options |= {"head_width": 32}
    if options.get("norm") == "frozen":
        options["norm"] = "batch"
    resize = recipe["dataset"]["resize"]
    aspect_kept = "shorter" in resize
    return {
        "weights": None,
        "options": options,
        "dataset": {
            "resize": {"shorter": HEIGHT, "longer": WIDTH} if aspect_kept else {"height": HEIGHT, "width": WIDTH},
            "batch_size": 2,
            "workers": 0,
        },
        "optim": {"lr": 1e-4, "accumulate": 1},
        "run": {"epochs": 1, "device": "cpu", "precision": "no", "threads": 1, "evaluate_every": 1, "log_every": 1},
    }
