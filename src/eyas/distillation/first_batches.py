"""Checks of the first batches of a training loop, before it trains a student on nonsense.

Reading values waits for the device, so later batches are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eyas.types import EyasError, Size, Target, host_boxes

CHECKED = 10
"""Batches that the distiller checks."""
DARKEST, BRIGHTEST = -0.5, 1.5
"""Bounds of float images. They leave room for resampling that overshoots, not for 0 to 255 or normalised images."""
FRAME = "boxes are in pixels of the tensor that the network is given, so resize and crop them with the image"


def check_batch(images: Tensor | Sequence[Tensor], targets: Sequence[Target], classes: Sequence[str]) -> None:
    """Check a batch as `eyas.Distiller` takes it.

    Args:
        images: (batch, 3, height, width) or a sequence of (3, height, width), float in [0, 1] or uint8.
        targets: one for each image, boxes in the frame of its tensor.
        classes: names, in label order.

    Raises:
        EyasError: a type, a shape or a value is not what losses and masks need. The message names the image of the
            batch, from 0, and the remedy.
    """
    if not all(isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3 for image in images):
        got = tuple(images.shape) if isinstance(images, Tensor) else [tuple(getattr(i, "shape", ())) for i in images]
        raise EyasError(
            f"images are tensors, (batch, 3, height, width) or a list of (3, height, width), RGB; got {got}"
        )
    shapes = [tuple(image.shape) for image in images]
    if not shapes:
        raise EyasError("a batch has at least one image, got none; leave an empty batch out")
    if len(targets) != len(shapes):
        raise EyasError(f"a batch has one target for each image; got {len(shapes)} images and {len(targets)} targets")
    if images[0].is_meta:  # without values
        return
    for image in [images] if isinstance(images, Tensor) else images:
        _check_pixels(image)
    if not all(isinstance(target, Mapping) for target in targets):
        kinds = ", ".join(sorted({type(target).__name__ for target in targets}))
        raise EyasError(f"a target is a dictionary with the tensors boxes and labels; got {kinds}")
    sizes = [target.get("size", shape[1:]) for target, shape in zip(targets, shapes, strict=True)]
    for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        _check_size(f"image {index} of the batch", size, shapes[index][1:])
        _check_target(f"image {index} of the batch", target, size, classes)
    _check_frame([_on_host(target) for target in targets], sizes)


def _check_pixels(images: Tensor) -> None:
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise EyasError(f"images are float in [0, 1] or uint8 in [0, 255], got {images.dtype}")
    low, high = (float(end) for end in images.aminmax())
    if not (low >= DARKEST and high <= BRIGHTEST):  # also of NaN
        raise EyasError(
            f"float images are in [0, 1], got values from {low:.4g} to {high:.4g}: divide images in [0, 255] by 255 or "
            "give them as uint8, and leave out a normalisation by mean and deviation, which detectors do themselves"
        )


def _check_size(where: str, size: object, image: Sequence[int]) -> None:
    """Raises EyasError for a size that is not that of the image in its padding: elsewhere it is that of the file."""
    height, width = image
    sides = list(size) if isinstance(size, tuple | list) else []
    if len(sides) != 2 or not all(isinstance(a, int) and 0 < a <= b for a, b in zip(sides, image, strict=True)):
        raise EyasError(
            f"{where}: a target's size is (height, width) of the image before padding, two whole numbers of at most "
            f"{height} and {width}; got {size!r:.60}. Leave it out, or keep what yours means under another name"
        )


def _check_target(where: str, target: Target, size: Size, classes: Sequence[str]) -> None:
    boxes, labels = target.get("boxes"), target.get("labels")
    if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
        raise EyasError(f"{where}: a target is a dictionary with the tensors boxes and labels; got {', '.join(target)}")
    form = getattr(boxes, "format", None)  # of torchvision's tv_tensors.BoundingBoxes
    if form is not None and getattr(form, "name", "XYXY") != "XYXY":
        raise EyasError(
            f"{where}: boxes are x1 y1 x2 y2, and these are {form.name}; convert them by "
            "torchvision.transforms.v2.ConvertBoundingBoxFormat"
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise EyasError(
            f"{where}: boxes are (n, 4) float32, x1 y1 x2 y2 in pixels, and zeros(0, 4) where there are none; got "
            f"{tuple(boxes.shape)}"
        )
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise EyasError(
            f"{where}: labels are int64, one for each of its {len(boxes)} boxes; got {tuple(labels.shape)} "
            f"{labels.dtype}"
        )
    ignore = target.get("ignore", boxes)
    if not isinstance(ignore, Tensor) or ignore.ndim != 2 or ignore.shape[1] != 4:
        got = tuple(ignore.shape) if isinstance(ignore, Tensor) else type(ignore).__name__
        raise EyasError(f"{where}: a target's ignore regions are boxes, (m, 4); got {got}. Leave out what is no box")
    if len(boxes):
        _check_labels(where, labels, classes)
        _check_boxes(where, _on_host(target), size)


def _check_labels(where: str, labels: Tensor, classes: Sequence[str]) -> None:
    low, high = (int(end) for end in labels.aminmax())
    if low >= 0 and high < len(classes):
        return
    count, last = len(classes), f"{len(classes) - 1}, {classes[-1]}"
    remedy = "an image without objects has no boxes and no labels"
    if high == count:
        remedy = "if yours count from 1, as torchvision's do with background at 0, subtract 1"
    wrong = low if low < 0 else high
    raise EyasError(f"{where}: label {wrong}, but labels count from 0, {classes[0]}, to {last}; {remedy}")


def _check_boxes(where: str, boxes: Tensor, size: Size) -> None:
    x1, y1, x2, y2 = boxes.unbind(1)
    height, width = size
    far = (x1 < -width) | (y1 < -height) | (x2 > 2 * width) | (y2 > 2 * height)
    faults = (
        (~torch.isfinite(boxes).all(1), "is not finite: leave it out"),
        (
            (x2 <= x1) | (y2 <= y1),
            "has no area: boxes are x1 y1 x2 y2, corners and not width and height; leave out what is empty",
        ),
        (
            far,
            f"lies far outside of its image, {width} wide and {height} high: {FRAME}",
        ),
    )
    for found, fault in faults:
        if bool(found.any()):
            box = boxes[int(found.int().argmax())].tolist()
            raise EyasError(f"{where}: the box {', '.join(f'{value:.4g}' for value in box)} {fault}")


def _check_frame(boxes: Sequence[Tensor], sizes: Sequence[Size]) -> None:
    """Raises EyasError when all boxes of the batch are within the first pixel, or most of them outside of the image."""
    count = sum(map(len, boxes))
    if not count:
        return
    if max(float(own.max()) for own in boxes if len(own)) <= 1:
        raise EyasError(
            f"all {count} boxes of the batch lie in [0, 1]; multiply fractions by width and height: {FRAME}"
        )
    outside = sum(
        int((own[:, 2:] <= 0).any(1).logical_or((own[:, :2] >= own.new_tensor([width, height])).any(1)).sum())
        for own, (height, width) in zip(boxes, sizes, strict=True)
    )
    if outside > count / 2:
        raise EyasError(f"{outside} of {count} boxes of the batch lie outside of their images: {FRAME}")


def _on_host(target: Target) -> Tensor:
    """The boxes of an image, (n, 4), from the host where it has a copy."""
    (boxes,) = host_boxes([target])
    return boxes.detach().cpu()
