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

from eyas.data.options import Augmentation, Resize, scaled
from eyas.ops.pixels import FILL
from eyas.types import Size, Target, size_of

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]
"""((3, h, w) uint8 image of a file, its target) -> ((3, H, W) uint8 image, the target in its frame). One of
your own may give float32 in [0, 1]."""


def eval_transform(resize: Resize) -> Transform:
    """The transform for evaluation: resizes, and changes nothing at random."""
    return _Pipeline(resize, Augmentation(flip=0.0))


def train_transform(resize: Resize, augmentation: Augmentation) -> Transform:
    """Zoom out, crop, resize, scale, shift, flip and colour, in this order. Draws from torch's default generator."""
    return _Pipeline(resize, augmentation)


@dataclass(frozen=True)
class WithHostBoxes:
    """A transform whose targets also have ``host_boxes``, see `eyas.types.Target`.

    A separate step, since code that changes the boxes of a batch later has to change both.
    """

    transform: Transform

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        image, target = self.transform(image, target)
        # A copy: a worker moves its tensors to shared memory, and an array must not point to the old memory.
        return image, {**target, "host_boxes": target["boxes"].numpy().copy()}


class _Pipeline:
    def __init__(self, resize: Resize, augment: Augmentation) -> None:
        self.resize, self.scale = resize, augment.scale
        fill = {tv_tensors.Image: list(FILL)}
        self.crop = v2.RandomIoUCrop() if augment.crop else None
        self.zoom_out = v2.RandomZoomOut(fill, (1.0, augment.zoom_out)) if augment.zoom_out > 1 else None
        self.shift = v2.RandomAffine(0, (augment.shift, augment.shift), fill=fill) if augment.shift > 0 else None
        self.flip = augment.flip
        colours = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
        self.colour = v2.ColorJitter(*colours) if any(colours) else None

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        size = size_of(image)
        regions = target.get("ignore", target["boxes"].new_zeros(0, 4))
        sample = self._move((tv_tensors.Image(image), _boxes(target["boxes"], size), _boxes(regions, size)))
        variant = int(self.flip > 0 and float(torch.rand(())) < self.flip)
        pixels, boxes, ignore = (F.horizontal_flip(part) for part in sample) if variant else sample
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


_Sample = tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, tv_tensors.BoundingBoxes]


def _boxes(boxes: Tensor, size: Size) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


def _iou_crop(crop: v2.RandomIoUCrop, sample: _Sample) -> _Sample:
    """Crop by the objects. Torchvision's transform takes one set of boxes only; ignore regions are clipped."""
    image, boxes, ignore = sample
    params = crop.make_params([image, boxes]) if len(boxes) else {}
    if not params:
        return sample
    where = (params["top"], params["left"], params["height"], params["width"])
    image, boxes, ignore = (F.crop(part, *where) for part in sample)
    boxes[~params["is_within_crop_area"]] = 0
    return image, boxes, ignore


def _inside(boxes: tv_tensors.BoundingBoxes) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the frame, without those under a pixel in width, height or area; (n,) bool, which are kept."""
    if not len(boxes):
        return boxes.as_subclass(Tensor), torch.ones(0, dtype=torch.bool)
    kept, valid = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(boxes))
    return kept.as_subclass(Tensor), valid
