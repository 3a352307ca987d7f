"""Records and predictions for the tests of the evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from eyas.types import Prediction, Record


def make_record(
    boxes=(), labels=(), ignore=(), ignore_labels=(), *, image_id: str = "a", **attributes: np.ndarray
) -> Record:
    def rows(values) -> np.ndarray:
        return np.array(values, dtype=np.float32).reshape(-1, 4)

    return Record(
        image_id, Path("a.png"), 400, 300, rows(boxes), np.array(labels, dtype=np.int64),
        rows(ignore), np.array(ignore_labels, dtype=np.int64), attributes,
    )  # fmt: skip


def make_prediction(boxes=(), scores=(), labels=()) -> Prediction:
    return {
        "boxes": torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = generator.uniform(0, 200, (count, 2))
    # Sides from 4 to 180 pixels: all three area ranges occur.
    return np.concatenate((corner, corner + np.exp(generator.uniform(1.4, 5.2, (count, 2)))), axis=1)


def random_case(
    seed: int, *, images: int = 12, classes: int = 3, area: bool = True, crowded: int = 0
) -> tuple[list[Record], list[Prediction]]:
    generator = np.random.default_rng(seed)
    records, predictions = [], []
    for number in range(images):
        count, regions = generator.integers(0, 8), generator.integers(0, 3)
        boxes, ignore = random_boxes(generator, count), random_boxes(generator, regions)
        extra = {
            "occluded": generator.integers(0, 4, count).astype(np.float32),
            "truncated": generator.choice([0, 0, 0.15, 0.16, 0.3, 0.5, 0.51], count).astype(np.float32),
        }
        if area:
            extra["area"] = generator.uniform(0.3, 1, count) * np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        records.append(
            make_record(
                boxes, generator.integers(0, classes, count), ignore, generator.integers(-1, classes, regions),
                image_id=str(number), **extra,
            )
        )  # fmt: skip
        near = np.concatenate((boxes, boxes, ignore))
        shaken = near + generator.normal(0, 0.06, near.shape) * (near[:, 2:] - near[:, :2]).repeat(2, axis=1)
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        found = np.concatenate((shaken, random_boxes(generator, generator.integers(0, 5) + crowded)))
        labels = np.concatenate((np.tile(records[-1].labels, 2), np.zeros(len(found) - 2 * count)))
        changed = generator.random(len(found)) < 0.15
        labels[changed] = generator.integers(0, classes, changed.sum())
        # Scores on a coarse grid, so that equal scores occur.
        scores = generator.integers(1, 40, len(found)) / 40
        keep = slice(0, 0) if generator.random() < 0.2 else slice(None)
        predictions.append(make_prediction(found[keep], scores[keep], labels[keep]))
    return records, predictions
