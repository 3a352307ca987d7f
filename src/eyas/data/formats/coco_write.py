"""Writes composed data sets as COCO detection JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyas.tools.files import write_text

if TYPE_CHECKING:
    from torch import Tensor


def write_coco(
    root: Path,
    split: str,
    classes: Sequence[str],
    items: Iterable[tuple[str, Image.Image | np.ndarray, npt.NDArray[Any] | Tensor, npt.NDArray[Any] | Tensor]],
) -> Path:
    """Write one split: ``images/SPLIT/NAME.png`` and, last and in one step, ``annotations/instances_SPLIT.json``.

    An interrupted run therefore leaves images but no data set. Ids count from 1, as in COCO. Returns the JSON file.

    Args:
        root: the folder, created if missing.
        split: "train" or "val".
        classes: class names in label order.
        items: (name, RGB image as a PIL image or (height, width, 3) uint8, (n, 4) xyxy boxes in pixels, (n,) labels),
            boxes and labels as arrays or tensors.
    """
    folder, target = root / "images" / split, root / "annotations" / f"instances_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, pixels, boxes, labels in items:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file_name = name if name.endswith(".png") else f"{name}.png"
        # Level 1 writes three times as fast as the default, for files a few percent larger.
        image.convert("RGB").save(folder / file_name, compress_level=1)
        images.append({"id": len(images) + 1, "file_name": file_name, "width": image.width, "height": image.height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": label + 1, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    write_text(target, text)
    return target
