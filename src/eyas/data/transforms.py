"""From the pixels of a file to what the network sees: resize once, augment, and keep the boxes true.

The resize happens here, for teacher and student together; the detectors' own resizing is switched off. torchvision's
v2 transforms move the pixels and the boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from eyas.ops.pixels import FILL
from eyas.types import EyasError, Size, Target

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
"""((3, h, w) uint8 image of a file, its target) -> ((3, H, W) uint8 image, the target in its frame). One of
your own may give float32 in [0, 1]."""


@dataclass(frozen=True)
class Resize:
    """The size of the network's input. Give height and width, or shorter and/or longer, or nothing (keep the size).

    Attributes:
        height: pixels, exact; with ``width``, the image is stretched.
        width: pixels, exact.
        shorter: pixels of the shorter side; the aspect ratio is kept.
        longer: pixels that the longer side may not exceed; alone, what the longer side becomes.
    """

    height: int | None = None
    width: int | None = None
    shorter: int | None = None
    longer: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise EyasError(f"resize {name} must be at least 1 pixel, got {value}")
        if (self.height is None) != (self.width is None):
            raise EyasError("resize height and width go together: give both or neither")
        if self.height is not None and (self.shorter is not None or self.longer is not None):
            raise EyasError("resize takes height and width (stretch), or shorter and longer (aspect kept), not both")
        if self.shorter is not None and self.longer is not None and self.longer < self.shorter:
            raise EyasError(f"resize longer ({self.longer}) must not be less than shorter ({self.shorter})")

    def times(self, scale: float) -> Resize:
        """A size so many times larger.

        Raises:
            EyasError: no size is given, so that there is nothing to be larger than.
        """
        if scale != 1 and self == Resize():
            raise EyasError("give the student's size by --dataset.resize, which the teacher's is to be larger than")
        return Resize(**{name: value and round(value * scale) for name, value in vars(self).items()})

    def output_size(self, size: Size) -> Size:
        """(height, width) of an image of ``size`` after the resize, at least 1 x 1 pixels."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        limits = []
        if self.shorter is not None:
            limits.append(self.shorter / min(size))
        if self.longer is not None:
            limits.append(self.longer / max(size))
        return scaled(size, min(limits, default=1.0))


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
        """The geometric variants of an image that training sees, see `eyas.types.Target`.

        Raises:
            EyasError: there is no end of them; the message says which options to drop.
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


def eval_transform(resize: Resize) -> Transform:
    """Resize, and nothing random."""
    return _Pipeline(resize, None)


def train_transform(resize: Resize, augmentation: Augmentation) -> Transform:
    """Zoom out, crop, resize, scale, shift, flip and colour, in this order. Draws from torch's default generator."""
    return _Pipeline(resize, augmentation)


@dataclass(frozen=True)
class WithHostBoxes:
    """A transform whose targets have their boxes once more, for the host.

    Not every transform's: who changes the boxes of a batch afterwards would have to change both.
    """

    transform: Transform

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        image, target = self.transform(image, target)
        # A copy: a worker moves its tensors to memory that processes share, away from under an array that is theirs.
        return image, {**target, "host_boxes": target["boxes"].numpy().copy()}


class _Pipeline:
    def __init__(self, resize: Resize, augmentation: Augmentation | None) -> None:
        a = augmentation or Augmentation(flip=0.0)
        self.resize, self.scale = resize, a.scale
        fill = {tv_tensors.Image: list(FILL)}
        self.crop = v2.RandomIoUCrop() if a.crop else None
        self.zoom_out = v2.RandomZoomOut(fill, (1.0, a.zoom_out)) if a.zoom_out > 1 else None
        self.shift = v2.RandomAffine(0, (a.shift, a.shift), fill=fill) if a.shift > 0 else None
        self.flip = a.flip
        colours = (a.brightness, a.contrast, a.saturation, a.hue)
        self.colour = v2.ColorJitter(*colours) if any(colours) else None

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        size = (image.shape[-2], image.shape[-1])
        sample = (
            tv_tensors.Image(image),
            _boxes(target["boxes"], size),
            _boxes(target.get("ignore", target["boxes"].new_zeros(0, 4)), size),
        )
        variant, (pixels, boxes, ignore) = self._flip(self._move(sample))
        if self.colour is not None:
            pixels = self.colour(pixels)
        boxes, valid = _inside(boxes)
        labels, ignore = target["labels"][valid], _inside(ignore)[0]
        result: Target = {**target, "boxes": boxes, "labels": labels, "ignore": ignore, "variant": variant}
        return pixels.as_subclass(Tensor).contiguous(), result

    def _move(self, sample: _Sample) -> _Sample:
        if self.zoom_out is not None:
            sample = self.zoom_out(*sample)
        if self.crop is not None:
            sample = _iou_crop(self.crop, sample)
        size = (sample[0].shape[-2], sample[0].shape[-1])
        wanted = self.resize.output_size(size)
        if self.scale != (1.0, 1.0):
            low, high = self.scale
            wanted = scaled(wanted, low + (high - low) * float(torch.rand(())))
        if wanted != size:
            sample = tuple(F.resize(part, list(wanted), antialias=True) for part in sample)
        if self.shift is not None:
            sample = self.shift(*sample)
        return sample

    def _flip(self, sample: _Sample) -> tuple[int, _Sample]:
        if self.flip > 0 and float(torch.rand(())) < self.flip:
            return 1, tuple(F.horizontal_flip(part) for part in sample)
        return 0, sample


_Sample = tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, tv_tensors.BoundingBoxes]


def _boxes(boxes: Tensor, size: Size) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def _iou_crop(crop: v2.RandomIoUCrop, sample: _Sample) -> _Sample:
    """Crop by the objects. The transform itself takes one set of boxes only, and ignore regions are just cut."""
    image, boxes, ignore = sample
    if not len(boxes):
        return sample
    params = crop.make_params([image, boxes])
    if not params:
        return sample
    where = (params["top"], params["left"], params["height"], params["width"])
    image, boxes, ignore = (F.crop(part, *where) for part in sample)
    boxes[~params["is_within_crop_area"]] = 0
    return image, boxes, ignore


def _inside(boxes: tv_tensors.BoundingBoxes) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the frame, without those less than a pixel wide, high or large, and which are left (n,) bool."""
    if not len(boxes):
        return boxes.as_subclass(Tensor), torch.ones(0, dtype=torch.bool)
    kept, valid = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(boxes))
    return kept.as_subclass(Tensor), valid
