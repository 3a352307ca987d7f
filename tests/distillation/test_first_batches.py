"""The first batches of a training loop: what is wrong with them is said, with the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes

from eyas.distillation.distiller import Distiller
from eyas.distillation.first_batches import CHECKED, check_batch
from eyas.methods import FGFI
from eyas.types import EyasError, Target
from helpers.toys import seeded, toy_batch, toy_target

CLASSES = ("red", "green", "blue")
HEIGHT, WIDTH = 60, 80
FORMATS = ("XYXY", "XYWH", "CXCYWH")


def target(*boxes: tuple[float, float, float, float], labels: tuple[int, ...] | None = None) -> Target:
    found = toy_target(*boxes)
    return {**found, "labels": torch.tensor(labels if labels is not None else [0] * len(boxes)).long()}


GOOD = target((5.0, 6.0, 30.0, 40.0), (60.0, 20.0, 90.0, 50.0), labels=(0, 2))
"""Two boxes, one of which leaves the image a little, as a crop may leave it."""
NONE = target()


def images(low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.linspace(low, high, 2 * 3 * HEIGHT * WIDTH).view(2, 3, HEIGHT, WIDTH)


def test_boxes_that_say_that_they_are_no_corners_are_refused() -> None:
    """26 wide at (4, 4) passes for corners otherwise."""
    kinds = {
        form: BoundingBoxes([[4.0, 4, 26, 26], [1, 2, 30, 9]], format=form, canvas_size=(HEIGHT, WIDTH))
        for form in FORMATS
    }
    check_batch(images(), with_boxes(kinds["XYXY"]), CLASSES)
    for form in FORMATS[1:]:
        with pytest.raises(EyasError, match=rf"image 0 of the batch: boxes are x1 y1 x2 y2, and these are {form}"):
            check_batch(images(), with_boxes(kinds[form]), CLASSES)


def with_boxes(boxes: object) -> list[Target]:
    return [{**GOOD, "boxes": boxes}, NONE]  # type: ignore[typeddict-item]


def with_labels(labels: object) -> list[Target]:
    return [NONE, {**GOOD, "labels": labels}]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "batch",
    [
        images(),
        images(-0.1, 1.1),  # bicubic resampling overshoots
        images(0, 255).to(torch.uint8),
        torch.zeros(2, 3, HEIGHT, WIDTH),
        [images()[0], images()[1, :, :50]],
        images().double(),
    ],
)
def test_good_batches_pass(batch: Tensor | list[Tensor]) -> None:
    check_batch(batch, [GOOD, NONE], CLASSES)
    check_batch(batch, [NONE, NONE], CLASSES)
    check_batch(batch, [{**GOOD, "boxes": GOOD["boxes"].int()}, NONE], CLASSES)


def test_a_few_boxes_beside_the_image_pass() -> None:
    """A random crop that does not clip its boxes is wasteful and not wrong."""
    check_batch(
        images(), [target((5.0, 6.0, 30.0, 40.0), (20.0, 2.0, 50.0, 9.0), (85.0, 3.0, 100.0, 9.0)), NONE], CLASSES
    )


BATCHES: dict[str, tuple[object, object, str]] = {
    "0 to 255": (images(0, 255), [GOOD, NONE], r"in \[0, 1\], got values from 0 to 255: divide"),
    "normalised": (images(-2.1, 2.6), [GOOD, NONE], r"got values from -2.1 to 2.6.*leave out a normalisation"),
    "a NaN pixel": (images() * math.nan, [GOOD, NONE], r"got values from nan"),
    "integers of 64 bits": (images(0, 255).long(), [GOOD, NONE], "float in .* or uint8"),
    "channels last": (images().permute(0, 2, 3, 1), [GOOD, NONE], r"\(batch, 3, height, width\).*got \(2, 60, 80, 3\)"),
    "grey": (images()[:, :1], [GOOD, NONE], r"RGB; got \(2, 1, 60, 80\)"),
    "one image": (images()[0], [GOOD], r"got \(3, 60, 80\)"),
    "arrays": ([np.zeros((3, 60, 80))], [GOOD], "images are tensors"),
    "a target too few": (images(), [GOOD], "2 images and 1 targets"),
    "no labels": (images(), [{"boxes": GOOD["boxes"]}, NONE], "the tensors boxes and labels; got boxes"),
    "a list of boxes": (images(), with_boxes([[1, 2, 3, 4]]), "the tensors boxes and labels"),
    "no row of boxes": (images(), [{**NONE, "boxes": torch.zeros(0)}, GOOD], r"zeros\(0, 4\) .* got \(0,\)"),
    "a box with its class": (images(), with_boxes(torch.ones(2, 5)), r"boxes are \(n, 4\) float32.*got \(2, 5\)"),
    "labels of 32 bits": (images(), with_labels(torch.zeros(2, dtype=torch.int32)), "image 1.*int64, one for each"),
    "labels of another shape": (images(), with_labels(torch.zeros(2, 1).long()), "for each of its 2 boxes"),
    "a label too many": (images(), with_labels(torch.zeros(3).long()), "for each of its 2 boxes"),
    "labels from 1": (
        images(),
        with_labels(torch.tensor([1, 3])),
        r"label 3, .* from 0, red, to 2, blue; .*subtract 1",
    ),
    "a label far too large": (images(), with_labels(torch.tensor([1, 90])), "label 90, but labels count from 0, red"),
    "label -1": (images(), with_labels(torch.tensor([0, -1])), "label -1, .*an image without objects has no boxes"),
    "the size of the file": (images(), [{**GOOD, "size": (480, 640)}, NONE], r"of at most 60 and 80; got \(480, 640\)"),
    "a size as a tensor": (
        images(),
        [{**GOOD, "size": torch.tensor([60, 80])}, NONE],
        r"size is \(height, width\) .*got",
    ),
    "a size of one side": (images(), [{**GOOD, "size": 60}, NONE], "two whole numbers"),
    "flags of ignored boxes": (images(), [{**GOOD, "ignore": torch.ones(2)}, NONE], r"are boxes, \(m, 4\); got \(2,\)"),
    "a NaN box": (images(), with_boxes(GOOD["boxes"] * math.nan), "image 0 .*the box nan, nan, nan, nan is not finite"),
    "an infinite box": (images(), with_boxes(torch.tensor([[1, 2, math.inf, 9], [1, 2, 3, 9]])), "is not finite"),
    "x y width height": (
        images(),
        with_boxes(torch.tensor([[50.0, 30, 20, 25], [1, 2, 30, 9]])),
        "corners and not width",
    ),
    "no width": (
        images(),
        with_boxes(torch.tensor([[5.0, 6, 5, 40], [1, 2, 3, 4]])),
        "the box 5, 6, 5, 40 has no area",
    ),
    "the file's frame": (images(), with_boxes(GOOD["boxes"] * 8), "lies far outside of its image, 80 wide and 60 high"),
    "twice the frame": (
        images(),
        [target((90.0, 70.0, 100.0, 90.0), (10.0, 9.0, 20.0, 19.0)), target((100.0, 5.0, 140.0, 30.0))],
        "2 of 3 boxes of the batch lie outside",
    ),
    "no image": (images()[:0], [], "a batch has at least one image"),
    "targets that are tensors": (images(), [torch.zeros(2, 5)] * 2, "a target is a dictionary .* got Tensor"),
    "fractions": (images(), with_boxes(GOOD["boxes"] / 100), r"all 2 boxes of the batch lie in \[0, 1\]; multiply"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_wrong_batches_are_refused_with_the_remedy(name: str) -> None:
    given, targets, message = BATCHES[name]
    with pytest.raises(EyasError, match=message):
        check_batch(given, targets, CLASSES)  # type: ignore[arg-type]


def test_boxes_are_measured_against_their_own_image() -> None:
    """Not against the padded batch."""
    small = [images()[0, :, :10, :10], images()[1]]
    with pytest.raises(EyasError, match=r"image 0 of the batch.*far outside of its image, 10 wide and 10 high"):
        check_batch(small, [GOOD, NONE], CLASSES)
    with pytest.raises(EyasError, match="10 wide and 10 high"):
        check_batch(images(), [{**GOOD, "size": (10, 10)}, NONE], CLASSES)


@pytest.mark.parametrize("change", [lambda image: image * 255, lambda image: image])
def test_a_distiller_checks_its_first_batches_alone(change: Callable[[Tensor], Tensor]) -> None:
    """Later ones are not looked at: that would wait for the device in every step."""
    distiller = Distiller(seeded(0), seeded(1, 6), FGFI(0.1))
    batch, targets = toy_batch()
    wrong = [{**targets[0], "labels": torch.tensor([1, 1, 1])}, targets[1]]
    with pytest.raises(EyasError, match=r"label 1, but labels count from 0, thing, to 0, thing; .*subtract 1"):
        distiller(batch, wrong)
    for _ in range(CHECKED):
        distiller(batch, targets)
    distiller(change(batch), wrong)
