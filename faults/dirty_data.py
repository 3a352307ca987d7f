"""Small valid data sets, one for each format, and faults in their files.

A data set is written once. A fault changes a few of its files; `restore` undoes it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24
CLASSES = ("car", "pedestrian", "cyclist")
IMAGES = 40
SPLIT = "train"
Box = tuple[int, int, int, int]
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
STRANGE = (b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e400", b"-7", b"0", b"1", b"9" * 5000, b"0x10", b"1_0")
AWAY = (b"../../../outside", b"/etc/hostname", b"..", b"a\x00b", b"x" * 5000, b"labels/../../../outside")
BOMB = (
    b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(12))
    + b"]>\n"
)
ALIASES = (
    b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 12))
    + b"names: *a11\n"
)


def boxes_of(number: int) -> list[tuple[str, Box]]:
    """The class and box (xyxy, whole pixels) of each object in an image."""
    chance = random.Random(number)
    found = []
    for _ in range(chance.randint(1, 3)):
        x, y = chance.randint(0, WIDTH - 9), chance.randint(0, HEIGHT - 9)
        right, bottom = x + chance.randint(4, 8), y + chance.randint(4, 8)
        found.append((chance.choice(CLASSES), (x, y, right, bottom)))
    return found


def voc(root: Path) -> None:
    """Write a VOC folder."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    names = _images(root / "JPEGImages", "jpg")
    (root / "ImageSets" / "Main" / f"{SPLIT}.txt").write_text("".join(f"{name}\n" for name in names))
    size = f"<size>\n<width>{WIDTH}</width>\n<height>{HEIGHT}</height>\n<depth>3</depth>\n</size>\n"
    for number, name in enumerate(names):
        objects = "".join(
            f"<object>\n<name>{kind}</name>\n<difficult>0</difficult>\n<bndbox>\n<xmin>{x1 + 1}</xmin>\n"
            f"<ymin>{y1 + 1}</ymin>\n<xmax>{x2}</xmax>\n<ymax>{y2}</ymax>\n</bndbox>\n</object>\n"
            for kind, (x1, y1, x2, y2) in boxes_of(number)
        )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>\n{size}{objects}</annotation>\n")


def kitti(root: Path) -> None:
    """Write a KITTI folder."""
    for folder in ("training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    names = _images(root / "training" / "image_2", "png")
    (root / "ImageSets" / f"{SPLIT}.txt").write_text("".join(f"{name}\n" for name in names))
    for number, name in enumerate(names):
        lines = [
            f"{kind.capitalize()} 0.00 0 -1.57 {x1}.00 {y1}.00 {x2}.00 {y2}.00 1.5 1.6 3.9 1.0 2.0 30.0 0.1\n"
            for kind, (x1, y1, x2, y2) in boxes_of(number)
        ]
        (root / "training" / "label_2" / f"{name}.txt").write_text("".join(lines))


def yolo(root: Path) -> None:
    """Write a YOLO folder."""
    (root / "labels" / SPLIT).mkdir(parents=True)
    names = _images(root / "images" / SPLIT, "png")
    (root / "data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\nnc: {len(CLASSES)}\n{SPLIT}: images/{SPLIT}\n")
    for number, name in enumerate(names):
        lines = [
            f"{CLASSES.index(kind)} {(x1 + x2) / 2 / WIDTH!r} {(y1 + y2) / 2 / HEIGHT!r} {(x2 - x1) / WIDTH!r} "
            f"{(y2 - y1) / HEIGHT!r}\n"
            for kind, (x1, y1, x2, y2) in boxes_of(number)
        ]
        (root / "labels" / SPLIT / f"{name}.txt").write_text("".join(lines))


def coco(root: Path) -> None:
    """Write a COCO folder."""
    (root / "annotations").mkdir(parents=True)
    names = _images(root / "images" / SPLIT, "png")
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": number + 1, "file_name": f"{name}.png", **size} for number, name in enumerate(names)]
    annotations = [
        {"image_id": number + 1, "category_id": CLASSES.index(kind) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number in range(IMAGES)
        for kind, (x1, y1, x2, y2) in boxes_of(number)
    ]
    annotations = [{"id": number, **entry, "iscrowd": 0} for number, entry in enumerate(annotations)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{SPLIT}.json").write_text(json.dumps(content, indent=0))


FORMATS: dict[str, Callable[[Path], None]] = {"coco": coco, "voc": voc, "kitti": kitti, "yolo": yolo}
"""Format -> function that writes a data set."""


def _images(folder: Path, suffix: str) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{number:04d}" for number in range(IMAGES)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.{suffix}")
    return names


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Some bytes have other values."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def numbers_changed(data: bytes, chance: random.Random) -> bytes:
    """One or two numbers become huge, negative, infinite, or no numbers at all."""
    for _ in range(chance.randint(1, 2)):
        places = list(NUMBER.finditer(data))
        if places:
            found = chance.choice(places)
            data = data[: found.start()] + chance.choice(STRANGE) + data[found.end() :]
    return data


def numbers_swapped(data: bytes, chance: random.Random) -> bytes:
    places = list(NUMBER.finditer(data))
    if len(places) < 2:
        return data
    place = chance.randrange(len(places) - 1)
    first, second = places[place], places[place + 1]
    between = data[first.end() : second.start()]
    return data[: first.start()] + second.group() + between + first.group() + data[second.end() :]


def line_twice(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return b"".join(lines)


def line_gone(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def with_bom(data: bytes, _: random.Random) -> bytes:
    return b"\xef\xbb\xbf" + data


def with_crlf(data: bytes, _: random.Random) -> bytes:
    return data.replace(b"\n", b"\r\n")


def in_utf16(data: bytes, _: random.Random) -> bytes:
    return data.decode().encode("utf-16")


def in_latin1(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + "ß".encode("latin-1") + data[place:]


def with_nul(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + b"\0" + data[place:]


def leading_away(data: bytes, chance: random.Random) -> bytes:
    """A name leads out of the folder, or is no valid file name."""
    names = list(re.finditer(rb"\b0\d{3}\b|images/\w+", data))
    if not names:
        return data
    found = chance.choice(names)
    return data[: found.start()] + chance.choice(AWAY) + data[found.end() :]


def nested(data: bytes, chance: random.Random) -> bytes:
    """Elements or brackets, nested thousands of times."""
    count = chance.choice((100, 100_000))
    if b"<annotation>" in data:
        return data.replace(b"<annotation>", b"<annotation>" + b"<a>" * count + b"</a>" * count)
    return data.replace(b"[", b"[" * count, 1)


def bomb(data: bytes, _: random.Random) -> bytes:
    """A few lines that would expand beyond memory."""
    if b"<annotation>" in data:
        return BOMB + data.replace(b"<name>", b"<name>&l;", 1)
    return ALIASES + data if data.startswith(b"names:") else data


TEXTS = (
    *(truncated, flipped, numbers_changed, numbers_swapped, line_twice, line_gone, with_bom, with_crlf),
    *(in_utf16, in_latin1, with_nul, leading_away, nested, bomb),
)
HARMLESS = (with_bom, with_crlf)
"""These change no record."""


def empty(path: Path) -> None:
    path.write_bytes(b"")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def larger(path: Path) -> None:
    Image.new("RGB", (2 * WIDTH, HEIGHT)).save(path)


FILES = (Path.unlink, empty, loop, pipe, folder_in_its_place)
"""Faults of any file."""
PICTURES = (*FILES, halved, larger)
"""Faults of an image."""


def files_of(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The images, the annotation files of single images, and the files that concern all images."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    images = [path for path in found if path.suffix in (".jpg", ".png")]
    own = [path for path in found if path.parent.name in ("Annotations", "label_2", SPLIT) and path not in images]
    return images, own, [path for path in found if path not in images and path not in own]


def restore(path: Path, content: bytes) -> None:
    """Put a file back, whatever happened to it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.write_bytes(content)
