"""The options of resizing and augmentation. No torch here: a command parses its options before it needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from eyas.types import EyasError, Size

BoxForm = Literal["xywh", "xyxy"]
"""How a box is written, in pixels: x, y, width, height; or x1, y1, x2, y2."""
BOX_FORMS: tuple[BoxForm, ...] = get_args(BoxForm)

SIDES = (8, 16384)
"""Pixels that a side of an input may have: from one cell of the finest common stride to a quarter of a gigapixel."""


@dataclass(frozen=True)
class Resize:
    """The size of the network's input. Give height and width, or shorter and/or longer, or nothing (keep the size).

    Attributes:
        height: pixels, exact; with ``width``, the image is stretched.
        width: pixels, exact.
        shorter: pixels of the shorter side; the aspect ratio is kept.
        longer: pixels that the longer side may not exceed; given alone, the longer side becomes exactly this.
    """

    height: int | None = None
    width: int | None = None
    shorter: int | None = None
    longer: int | None = None

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise EyasError("resize height and width go together: give both or neither")
        if self.height is not None and (self.shorter is not None or self.longer is not None):
            raise EyasError("resize takes height and width (stretch), or shorter and longer (aspect kept), not both")
        if self.shorter is not None and self.longer is not None and self.longer < self.shorter:
            raise EyasError(f"resize longer ({self.longer}) must not be less than shorter ({self.shorter})")
        for name, value in vars(self).items():
            if value is not None and not (isinstance(value, int) and SIDES[0] <= value <= SIDES[1]):
                raise EyasError(f"resize {name} must lie in [{SIDES[0]}, {SIDES[1]}] pixels, got {value}")

    def times(self, scale: float) -> Resize:
        """The same resize to ``scale`` times the size. Raises `EyasError` where this one keeps the size."""
        if scale != 1 and self == Resize():
            raise EyasError("give the student's size by --dataset.resize; the teacher's is --teacher_scale times that")
        return Resize(**{name: value and round(value * scale) for name, value in vars(self).items()})

    def output_size(self, size: Size) -> Size:
        """(height, width) of an image of ``size`` after the resize, at least 1 x 1 pixels.

        Raises `EyasError` for a side of more than `SIDES` pixels: a long, narrow image without a limit.
        """
        if self.height is not None and self.width is not None:
            return self.height, self.width
        sides = ((self.shorter, min(size)), (self.longer, max(size)))
        resized = scaled(size, min((wanted / side for wanted, side in sides if wanted is not None), default=1.0))
        if max(resized) > max(SIDES[1], *size):
            given = f"{size[0]}x{size[1]} pixels would become {resized[0]}x{resized[1]}"
            raise EyasError(f"an image of {given}; limit its longer side by --dataset.resize.longer")
        return resized


@dataclass(frozen=True)
class SplitOptions:
    """Which images of a data set a detector learns from, and which it is evaluated on.

    Attributes:
        format: coco, voc, kitti, yolo, imagefolder or hf; recognised from the folder when left out.
        boxes: how the boxes of a Hugging Face data set (imagefolder, hf) are written, which no file of it says.
        train_split: name of the split to train on. A data set whose only split has another name is trained on that.
        val_split: name of the split to evaluate on.
        val_fraction: fraction of the training split, in [0, 1), that is held out for evaluation where the data set has
            no validation split; 0 asks for one.
        val_seed: decides which images are held out. It does not follow the run's seed: all runs hold out the same.
        classes: class names in label order, or each name with the classes of the data set that it takes together;
            taken from the data set when left out. Objects of other classes are background.
    """

    format: str | None = None
    boxes: BoxForm | None = None
    train_split: str = "train"
    val_split: str = "val"
    val_fraction: float = 0.2
    val_seed: int = 0
    classes: list[str] | dict[str, list[str]] | None = None

    def __post_init__(self) -> None:
        # The types, too, because run folders are read into this.
        if self.boxes not in (None, *BOX_FORMS):
            raise EyasError(f"boxes must be {' or '.join(BOX_FORMS)}, got {self.boxes!r:.60}")
        if not isinstance(self.val_fraction, int | float) or not 0 <= self.val_fraction < 1:
            raise EyasError(f"val_fraction must be a number in [0, 1), got {self.val_fraction!r:.60}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image. The defaults flip only.

    Attributes:
        flip: probability of a horizontal flip, in [0, 1].
        brightness: factor drawn from [1 - x, 1 + x].
        contrast: likewise.
        saturation: likewise.
        hue: shift drawn from [-x, x], x in [0, 0.5], in turns of the colour circle.
        scale: (low, high): the resized image is scaled once more by a factor drawn between them, its aspect kept.
        zoom_out: with probability 1/2 the image is put on a canvas up to this many times larger per side (SSD: 4);
            1 switches it off.
        crop: SSD's crop of random size and place; it keeps the boxes whose centres stay inside, and leaves an image
            without objects as it is.
        shift: the image is moved by up to this fraction of its height and width, in whole pixels, in [0, 1).
    """

    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    zoom_out: float = 1.0
    crop: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise EyasError(f"augmentation flip is a probability in [0, 1], got {self.flip}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise EyasError(f"augmentation {name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise EyasError(f"augmentation hue must be in [0, 0.5], got {self.hue}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise EyasError(f"augmentation scale must be (low, high) with 0 < low <= high, got {tuple(self.scale)}")
        if self.zoom_out < 1:
            raise EyasError(f"augmentation zoom_out must be at least 1, got {self.zoom_out}")
        if not 0 <= self.shift < 1:
            raise EyasError(f"augmentation shift must be in [0, 1), got {self.shift}")

    def variants(self) -> tuple[int, ...]:
        """The geometric variants in which training sees an image, see `eyas.types.Target`.

        Raises `EyasError` that names the options to drop when there are infinitely many.
        """
        endless = {
            "scale '[1, 1]'": tuple(self.scale) != (1.0, 1.0),
            "zoom_out 1": self.zoom_out > 1,
            "crop false": self.crop,
            "shift 0": self.shift > 0,
        }
        drop = [f"--dataset.augment.{option}" for option, given in endless.items() if given]
        if drop:
            raise EyasError(
                "a teacher cache holds each image as it is and flipped, and this augmentation makes other images in "
                f"every epoch: drop it by {' '.join(drop)} (colours may vary), or leave --cache out"
            )
        return (0,) if self.flip == 0 else (1,) if self.flip == 1 else (0, 1)


def scaled(size: Size, factor: float) -> Size:
    """A size times a factor, rounded to whole pixels, at least 1 x 1."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
