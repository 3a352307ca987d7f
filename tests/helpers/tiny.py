"""A data set of a few coloured squares, and the options of a training on it that takes a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor

from eyas.__main__ import main
from eyas.data import write_coco
from eyas.detectors import CustomDetector, ShuffleDet
from eyas.detectors.shuffledet.shufflenet import ShuffleNet

CLASSES = ("red", "blue")
COLOURS = ((220, 40, 40), (40, 60, 220))
SIZE = 64
MODEL = {"width": 0.25, "stem_channels": 8, "anchor_shapes": [[20, 20], [32, 32]], "object_weight": 18.75}
DATASET = {"batch_size": 4, "workers": 0}


def square_image(seed: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """One or two squares of 16 to 32 pixels over noise: pixels, boxes, labels."""
    random = default_rng(seed)
    pixels = random.integers(90, 150, (SIZE, SIZE, 3), dtype=np.uint8)
    boxes, labels = [], []
    for _ in range(random.integers(1, 3)):
        side = int(random.integers(16, 33))
        x, y = (int(value) for value in random.integers(0, SIZE - side, 2))
        label = int(random.integers(0, 2))
        pixels[y : y + side, x : x + side] = COLOURS[label]
        boxes.append([x, y, x + side, y + side])
        labels.append(label)
    return pixels, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)


def write_squares(root: Path, *, train: int = 8, val: int = 5, classes: Sequence[str] = CLASSES) -> Path:
    """A COCO data set below ``root``."""
    for split, count, start in (("train", train, 0), ("val", val, 1000)):
        write_coco(root, split, classes, [(f"{split}{i}", *square_image(start + i)) for i in range(count)])
    return root


def poor_teacher() -> ShuffleDet:
    """An untrained detector, for ``--teacher=helpers.tiny:poor_teacher``."""
    torch.manual_seed(3)
    return ShuffleDet(CLASSES, **MODEL)


def features_alone() -> CustomDetector:
    """A teacher without `predict`, that knows the classes of the data."""
    return CustomDetector(ShuffleNet(width=0.25, stem_channels=8), CLASSES, levels=["units"])


def options(**more: Any) -> list[str]:
    """Command line arguments of a model and its training: ``run_epochs=3`` is ``--run.epochs=3``."""
    arguments = {
        "model": "shuffledet",
        "options": json.dumps(MODEL),
        "dataset.batch_size": 4,
        "dataset.workers": 0,
        "optim.optimizer": "adamw",
        "optim.lr": 0.002,
        "run.epochs": 3,
        "run.log_every": 1,
        "run.device": "cpu",
        **{name.replace("_", ".", 1) if name.split("_")[0] in PREFIXES else name: more[name] for name in more},
    }
    return [f"--{name}={value}" for name, value in arguments.items() if value is not None]


def one_epoch(out: Path, data: Path) -> Path:
    """A run of one epoch, as a teacher or to look at."""
    assert main(["train", f"--data={data}", f"--out={out}", *options(run_epochs=1)]) == 0
    return out


PREFIXES = ("dataset", "optim", "run")


def train_lines(folder: Path) -> list[dict[str, Any]]:
    """What a run logged of its steps, without the wall time."""
    lines = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines if line["kind"] == "train"]
