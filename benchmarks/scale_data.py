"""Data of the size of COCO's, without its pixels: annotations of any number of images, and images of noise."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np

IMAGE = (640, 480)
IMAGE_BYTES = 163_000
"""Pixels of a typical COCO image, and the bytes of an average one: 19.3 GB for 118,287 images."""
CLASSES = 80


def jpeg(seed: int) -> bytes:
    """A JPEG of noise at every scale, whose bytes are those of an average photograph of COCO."""
    from PIL import Image

    random, (width, height) = np.random.default_rng(seed), IMAGE
    pixels = np.full((height, width, 3), 128.0)
    for octave in range(1, 8):
        coarse = random.normal(0, 12, (height // 2**octave + 2, width // 2**octave + 2, 3)).clip(-60, 60) + 128
        image = Image.fromarray(coarse.astype(np.uint8)).resize(IMAGE, Image.Resampling.BICUBIC)
        pixels += np.asarray(image, np.float64) - 128
    picture, best = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), b""
    for quality in range(80, 100, 2):
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        best = file.getvalue()
        if len(best) >= IMAGE_BYTES:
            break
    return best


def write_annotations(root: Path, images: int, boxes: int, names: list[str] | None = None) -> list[str]:
    """A COCO file of COCO's own fields without segmentations, and an empty file for each image, unless there are."""
    folder, random = root / "images" / "train", np.random.default_rng(0)
    if names is None:
        folder.mkdir(parents=True)
        (root / "annotations").mkdir()
        names = [f"{number:012d}.jpg" for number in range(images)]
        for name in names:
            (folder / name).touch()
    size = {"license": 1, "height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45"}
    with (root / "annotations" / "instances_train.json").open("w") as file:
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [')
        for number, name in enumerate(names):
            url = f"http://images.cocodataset.org/train2017/{name}"
            file.write(
                (", " if number else "") + json.dumps({"id": number, "file_name": name, "coco_url": url, **size})
            )
        file.write('], "annotations": [')
        for number in range(images):
            sides = random.uniform(4, 300, (boxes, 4)).round(2).tolist()
            entries = [
                {"id": number * boxes + index + 1, "image_id": number, "category_id": 1 + index % CLASSES, "iscrowd": 0,
                 "area": round(w * h / 2, 4), "bbox": [x, y / 2, w, h / 2]}
                for index, (x, y, w, h) in enumerate(sides)
            ]  # fmt: skip
            file.write((", " if number else "") + json.dumps(entries)[1:-1])
        file.write("]}")
    return names
