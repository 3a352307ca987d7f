"""Images with filled rectangles, red for one class, green for the other: boxes can be held against pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from eyas.data import DataSource

WIDTH, HEIGHT = 96, 64
CLASSES = ("bolt", "nut")
COLOURS = {"bolt": (220, 30, 30), "nut": (30, 200, 30)}
Thing = tuple[str, tuple[int, int, int, int]]
"""A class and its box, xyxy."""
THINGS: tuple[tuple[Thing, ...], ...] = (
    (("nut", (32, 7, 62, 21)),),
    (("bolt", (10, 40, 30, 52)), ("nut", (60, 30, 74, 58))),
    (("nut", (5, 5, 19, 25)),),
    (("bolt", (70, 8, 90, 20)), ("nut", (20, 30, 40, 44))),
    (("nut", (44, 12, 80, 40)),),
    (),
)
"""The objects of each image; 7 in all. The sixth shows none."""


def draw(path: Path, number: int) -> Path:
    """Image ``number`` of `THINGS`, with a mark that makes its file differ from every other's."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    for name, box in THINGS[number % len(THINGS)]:
        image.paste(COLOURS[name], box)
    image.putpixel((0, 0), (number, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}))
    return path


def yolo(number: int) -> str:
    """The label file of an image."""
    return "".join(
        f"{CLASSES.index(name)} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} "
        f"{(y2 - y1) / HEIGHT}\n"
        for name, (x1, y1, x2, y2) in THINGS[number % len(THINGS)]
    )


def voc(number: int, file_name: str = "", difficult: str = "<difficult>0</difficult>") -> str:
    """The XML file of an image: 1-based, the corner pixels inside."""
    objects = "".join(
        f"<object><name>{name}</name>{difficult}<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>\n"
        for name, (x1, y1, x2, y2) in THINGS[number % len(THINGS)]
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation><filename>{file_name}</filename>{size}\n{objects}</annotation>"


def coco(names: dict[int, str]) -> dict[str, list[dict[str, object]]]:
    """The JSON of images by number and file name. Ids are those of other tools: from 1, and 0 is no category."""
    annotations = [
        {"image_id": number + 1, "category_id": CLASSES.index(name) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number in names
        for name, (x1, y1, x2, y2) in THINGS[number % len(THINGS)]
    ]
    return {
        "images": [
            {"id": number + 1, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in names.items()
        ],
        "annotations": [{"id": index, **entry} for index, entry in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }


def assert_drawn(source: DataSource, images: int, objects: int) -> None:
    """Check the counts, and that every box covers exactly the pixels of its class's colour."""
    assert (len(source.records), sum(len(record.boxes) for record in source.records)) == (images, objects)
    for record in source.records:
        with Image.open(record.path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        for name, colour in COLOURS.items():
            drawn = (np.abs(pixels - colour) < 60).all(-1)
            covered = np.zeros_like(drawn)
            for box, label in zip(record.boxes, record.labels, strict=True):
                x1, y1, x2, y2 = box.round().astype(int)
                if source.classes[label] == name:
                    covered[y1:y2, x1:x2] = True
            assert (drawn == covered).mean() > 0.99, (record.path, name)
