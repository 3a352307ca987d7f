"""Pixels and boxes move together, and what leaves the frame leaves the target."""

from __future__ import annotations

import pytest
import torch

from eyas.data import Augmentation, Resize, eval_transform, train_transform
from eyas.types import EyasError, Target

NONE = Augmentation(flip=0.0)


def target_of(*boxes: tuple[float, float, float, float], ignore: tuple = ()) -> Target:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(len(boxes)),
        "ignore": torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
    }


def painted(box: tuple[int, int, int, int], height: int = 40, width: int = 60) -> torch.Tensor:
    """A black image with one white box."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return image


def extent(image: torch.Tensor, threshold: float = 229) -> list[int]:
    """The box around the pixels that are nearly white."""
    rows, columns = torch.where(image.amin(0) > threshold)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize(
    ("resize", "size", "wanted"),
    [
        (Resize(), (30, 50), (30, 50)),
        (Resize(height=160, width=320), (30, 50), (160, 320)),
        (Resize(shorter=60), (30, 50), (60, 100)),
        (Resize(shorter=60, longer=80), (30, 50), (48, 80)),
        (Resize(shorter=800, longer=1333), (480, 640), (800, 1067)),
        (Resize(longer=25), (30, 50), (15, 25)),
        (Resize(longer=10), (1, 500), (1, 10)),
    ],
)
def test_output_size(resize, size, wanted):
    assert resize.output_size(size) == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize(height=3), "go together"),
        (lambda: Resize(height=3, width=3, shorter=3), "not both"),
        (lambda: Resize(shorter=0), "shorter must lie in"),
        (lambda: Resize(height=4, width=3), "height must lie in"),
        (lambda: Resize(longer=16385), "longer must lie in"),
        (lambda: Resize(shorter=9, longer=8), "longer"),
        (lambda: Augmentation(flip=1.5), "flip"),
        (lambda: Augmentation(contrast=-1), "contrast"),
        (lambda: Augmentation(hue=0.6), "hue"),
        (lambda: Augmentation(scale=(1.2, 0.8)), "scale"),
        (lambda: Augmentation(zoom_out=0.5), "zoom_out"),
        (lambda: Augmentation(shift=1.0), "shift"),
    ],
)
def test_options_are_validated(make, message):
    with pytest.raises(EyasError, match=message):
        make()


def test_no_change_keeps_every_value():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    pixels, target = train_transform(Resize(), NONE)(image, target_of((1, 2, 30.5, 20), ignore=((0, 0, 60, 40),)))
    assert torch.equal(pixels, image) and pixels.dtype == torch.uint8 and type(pixels) is torch.Tensor
    assert target["boxes"].tolist() == [[1, 2, 30.5, 20]] and target["ignore"].tolist() == [[0, 0, 60, 40]]
    assert type(target["boxes"]) is torch.Tensor and type(target["ignore"]) is torch.Tensor


def test_flip_moves_pixels_and_boxes_exactly():
    flip = train_transform(Resize(), Augmentation(flip=1.0))
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    pixels, target = flip(image, target_of((1, 2, 30.5, 20), ignore=((0, 0, 9, 40),)))
    assert torch.equal(pixels, image.flip(-1))
    assert target["boxes"].tolist() == [[29.5, 2, 59, 20]] and target["ignore"].tolist() == [[51, 0, 60, 40]]
    again = flip(pixels, target)
    assert torch.equal(again[1]["boxes"], torch.tensor([[1, 2, 30.5, 20]])) and torch.equal(again[0], image)


def test_flip_has_its_probability():
    flip = train_transform(Resize(), Augmentation(flip=0.3))
    torch.manual_seed(0)
    image = painted((0, 0, 30, 40))
    flipped = sum(flip(image, target_of())[0][0, 0, -1] == 255 for _ in range(500))
    assert 0.24 < flipped / 500 < 0.36  # three standard deviations are 0.06


def test_the_target_that_came_in_is_untouched():
    before = target_of((1, 2, 30, 20), ignore=((0, 0, 9, 40),))
    augmentation = Augmentation(flip=1.0, crop=True, zoom_out=2.0, shift=0.2)
    train_transform(Resize(height=20, width=20), augmentation)(painted((1, 2, 30, 20)), before)
    assert before["boxes"].tolist() == [[1, 2, 30, 20]] and before["ignore"].tolist() == [[0, 0, 9, 40]]


def test_resize_stretches_both_axes_by_their_own_factor():
    pixels, target = eval_transform(Resize(height=80, width=30))(
        painted((20, 10, 40, 30)), target_of((20, 10, 40, 30), ignore=((0, 0, 60, 40),))
    )
    assert pixels.shape == (3, 80, 30)
    assert target["boxes"].tolist() == [[10, 20, 20, 60]] and target["ignore"].tolist() == [[0, 0, 30, 80]]
    assert extent(pixels, threshold=127) == [10, 20, 20, 60]


def test_small_boxes_go_with_their_labels():
    boxes = ((0, 0, 30, 30), (5, 5, 6.5, 30), (10, 10, 40, 40))
    target = eval_transform(Resize(height=20, width=30))(painted((0, 0, 9, 9)), target_of(*boxes))[1]
    assert target["labels"].tolist() == [0, 2]  # the second is 0.75 pixels wide now
    assert target["boxes"].tolist() == [[0, 0, 15, 15], [5, 5, 20, 20]]


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=0.5, shift=0.3),
        Augmentation(flip=0.5, zoom_out=3.0),
        Augmentation(flip=0.5, crop=True),
        Augmentation(flip=0.5, zoom_out=2.0, crop=True, shift=0.2),
    ],
)
def test_the_box_stays_on_its_object(augmentation):
    transform = train_transform(Resize(), augmentation)
    image, seen = painted((20, 10, 40, 30)), 0
    for seed in range(30):
        torch.manual_seed(seed)
        pixels, target = transform(image, target_of((20, 10, 40, 30), ignore=((20, 10, 40, 30),)))
        for box in (*target["boxes"], *target["ignore"]):
            assert box.tolist() == extent(pixels)
            seen += 1
    assert seen > 30


def test_scale_stays_in_its_range_and_keeps_the_boxes_in_proportion():
    transform = train_transform(Resize(), Augmentation(flip=0.0, scale=(0.5, 2.0)))
    heights = set()
    for _ in range(40):
        pixels, target = transform(painted((20, 10, 40, 30)), target_of((0, 0, 60, 20)))
        height, width = pixels.shape[-2:]
        assert 20 <= height <= 80 and abs(width / height - 1.5) < 0.06
        assert target["boxes"].tolist() == [[0, 0, width, height / 2]]
        heights.add(height)
    assert len(heights) > 10


def test_shift_drops_what_leaves_the_frame():
    transform = train_transform(Resize(), Augmentation(flip=0.0, shift=0.5))
    kept = [
        len(transform(painted((0, 0, 3, 3)), target_of((0, 0, 3, 3), ignore=((0, 0, 3, 3),)))[1]["labels"])
        for _ in range(40)
    ]
    assert {0, 1} == set(kept)


def test_a_crop_keeps_the_part_of_an_ignore_region_whose_centre_is_cut_off():
    transform = train_transform(Resize(), Augmentation(flip=0.0, crop=True))
    image = painted((0, 0, 60, 40))
    for seed in range(30):
        torch.manual_seed(seed)
        pixels, target = transform(image, target_of((5, 5, 25, 25), ignore=((0, 0, 60, 40),)))
        assert target["ignore"].tolist() == [[0, 0, pixels.shape[-1], pixels.shape[-2]]]


def test_a_crop_drops_an_object_whose_centre_is_cut_off():
    transform = train_transform(Resize(), Augmentation(flip=0.0, crop=True))
    boxes, cut = ((0, 0, 28, 40), (32, 0, 60, 40)), 0
    for seed in range(60):
        torch.manual_seed(seed)
        target = transform(painted((0, 0, 9, 9)), target_of(*boxes, ignore=boxes))[1]
        visible = target["ignore"].tolist()
        assert len(target["labels"]) and all(box in visible for box in target["boxes"].tolist())
        cut += len(visible) > len(target["labels"])
    assert cut > 5


def test_a_box_that_leaves_the_frame_is_clipped():
    target = eval_transform(Resize())(painted((0, 0, 9, 9)), target_of((-5, 2, 70, 20)))[1]
    assert target["boxes"].tolist() == [[0, 2, 60, 20]]


def test_everything_on_an_image_without_objects():
    everything = Augmentation(0.5, 0.2, 0.2, 0.2, 0.05, (0.8, 1.2), 2.0, True, 0.2)
    pixels, target = train_transform(Resize(height=32, width=48), everything)(painted((0, 0, 9, 9)), target_of())
    assert target["boxes"].shape == target["ignore"].shape == (0, 4) and target["labels"].shape == (0,)
    assert pixels.dtype == torch.uint8


def test_colour_changes_pixels_and_no_box():
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    transform = train_transform(Resize(), Augmentation(flip=0.0, brightness=0.5))
    torch.manual_seed(0)
    samples = [transform(image, target_of((1, 2, 30, 20))) for _ in range(100)]
    means = [float(pixels.float().mean()) for pixels, _ in samples]
    assert 50 <= round(min(means)) < 55 and 145 < round(max(means)) <= 150  # factors from 0.5 to 1.5
    assert all(target["boxes"].tolist() == [[1, 2, 30, 20]] for _, target in samples)
