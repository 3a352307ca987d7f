"""ShuffleDet against the authors' figures, naive versions of its rules, and values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eyas.detectors import build
from eyas.detectors.shuffledet.adapter import KITTI_ANCHORS, ShuffleDet, anchors_for
from eyas.detectors.shuffledet.anchors import BatchAnchors
from eyas.detectors.shuffledet.loss import class_loss, decode, encode, ignored_anchors, match_anchors
from eyas.detectors.shuffledet.shufflenet import ShuffleUnit, channel_shuffle, scaled
from eyas.evaluation.predict import predict_batch
from eyas.methods import FGFI, BoxMask
from eyas.ops.boxes import iou, to_centre_size
from eyas.ops.pixels import filled
from eyas.types import Detector, EyasError, Target, View

KITTI_CLASSES = ("car", "pedestrian", "cyclist")
SMALL_ANCHORS = ((10.0, 12.0), (24.0, 20.0), (40.0, 44.0))


def small(**options: object) -> ShuffleDet:
    torch.manual_seed(0)
    return ShuffleDet(("a", "b"), width=0.25, stem_channels=8, anchor_shapes=SMALL_ANCHORS, **options)  # type: ignore[arg-type]


def target(boxes: list[list[float]], labels: list[int], ignore: list[list[float]] | None = None) -> Target:
    made: Target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    if ignore is not None:
        made["ignore"] = torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4)
    return made


EMPTY = target([], [])


def batch_anchors(anchors: Tensor) -> BatchAnchors:
    """Anchors (A, 4) of every image of a batch without padding."""
    return BatchAnchors(anchors[None], None, torch.full((1, 4), 1000.0))


def losses_of(model: ShuffleDet, images: Tensor, targets: list[Target]) -> dict[str, float]:
    with torch.no_grad():
        return {name: loss.item() for name, loss in model.losses(images, targets).items()}


@pytest.mark.parametrize(
    ("width", "stem", "millions", "billions"),
    [(1.0, 24, 1.6, 5.1), (1.0, 16, 1.6, 5.2), (0.5, 24, 0.53, 1.6), (0.5, 16, 0.53, 1.5), (0.25, 24, 0.21, 0.67)],
)
def test_size_is_what_the_authors_report(width: float, stem: int, millions: float, billions: float) -> None:
    # Their "FLOPs" are multiply-adds of the backbone at 384 x 1248, without the head; PyTorch counts two for each.
    model = ShuffleDet(KITTI_CLASSES, width=width, stem_channels=stem).to("meta").eval()
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert parameters == pytest.approx(millions, rel=0.04)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.backbone(torch.empty((1, 3, 384, 1248), device="meta"))
    assert features.shape == (1, 768 * width, 24, 78)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.03)


def test_scaled_channels() -> None:
    assert [scaled(channels, 0.25) for channels in (240, 480, 960, 768)] == [60, 120, 240, 192]
    assert scaled(768, 0.1) % 12 == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_shuffle_against_its_definition(layout: torch.memory_format) -> None:
    x = torch.randn(2, 12, 3, 5).contiguous(memory_format=layout)
    shuffled = channel_shuffle(x, 3)
    for group in range(3):
        for index in range(4):
            assert torch.equal(shuffled[:, index * 3 + group], x[:, group * 4 + index])
    assert shuffled.is_contiguous(memory_format=layout)


def test_stride_two_unit_keeps_the_pooled_input_in_front() -> None:
    x = torch.randn(1, 24, 8, 6)
    output = ShuffleUnit(24, 60, stride=2, first=True)(x)
    assert output.shape == (1, 60, 4, 3)
    # Only the four pixels inside the image count at the corner.
    torch.testing.assert_close(output[0, :24, 0, 0], x[0, :, :2, :2].mean(dim=(1, 2)))
    assert (output[:, 24:] >= 0).all()


def test_anchor_grid_is_the_authors() -> None:
    model = ShuffleDet(KITTI_CLASSES, width=0.25)
    level = model.levels["backbone"]
    assert (level.channels, level.stride) == (192, 16)
    anchors = level.grid((24, 78), (384, 1248)).anchors()
    assert anchors.shape == (24, 78, 9, 4)
    for row, column in ((0, 0), (23, 77), (5, 40)):
        expected = torch.tensor([((column + 1) * 1248 / 79, (row + 1) * 384 / 25, *shape) for shape in KITTI_ANCHORS])
        torch.testing.assert_close(to_centre_size(anchors[row, column]), expected, rtol=1e-4, atol=1e-3)


def test_the_level_names_the_module_that_makes_the_feature() -> None:
    model = small().eval()
    assert isinstance(model, Detector)
    kept: list[Tensor] = []
    (name, level), *rest = model.levels.items()
    assert not rest
    model.network.get_submodule(name).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        raw, anchors = model(torch.rand(1, 3, 50, 70))
    assert kept[0].shape == (1, level.channels, 4, 5)  # sizes round up
    assert len(anchors) == raw.confidence.shape[1] == 4 * 5 * len(SMALL_ANCHORS)
    assert kept[0].min() >= 0


def test_encode_and_decode_are_inverse() -> None:
    torch.manual_seed(0)
    corner, size = torch.rand(200, 2) * 100, 1 + torch.rand(200, 2) * 300
    boxes = torch.cat((corner, corner + size), dim=1)
    anchors = torch.tensor([[30.0, 30.0, 60.0, 50.0]]).expand(200, 4)
    ratio = size / torch.tensor([30.0, 20.0])
    assert (ratio > math.e).any() and (ratio < 1).any()  # both sides of the threshold
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-3)


def test_decode_by_hand() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    box = decode(torch.tensor([[0.5, -0.25, math.log(2), 3.0]]), anchor)
    # Height: delta 3 is two above the threshold, on the tangent: e * (1 + 2).
    assert to_centre_size(box)[0].tolist() == pytest.approx([30, 30, 40, 40 * 3 * math.e], rel=1e-5)


def naive_match(anchors: Tensor, boxes: Tensor) -> list[int]:
    taken: list[int] = []
    for box in boxes:
        free = [index for index in range(len(anchors)) if index not in taken]
        overlaps = {index: float(iou(box, anchors[index])) for index in free}
        best = max(free, key=lambda index: (overlaps[index], -index))
        if overlaps[best] <= 0:
            distances = (to_centre_size(anchors) - to_centre_size(box)).square().sum(dim=1)
            best = min(free, key=lambda index: (float(distances[index]), index))
        taken.append(best)
    return taken


@pytest.mark.parametrize("seed", range(8))
def test_matching_equals_the_naive_rule(seed: int) -> None:
    torch.manual_seed(seed)
    anchors = small().grid((4, 4), (64, 64)).anchors().reshape(-1, 4)
    targets, expected = [], []
    for count in (0, 6, 0, 9, 1):
        # Some boxes lie outside every anchor; the repeated ones compete for an anchor.
        corner = torch.randint(-20, 140, (count, 2)).float()
        boxes = torch.cat((corner, corner + torch.randint(2, 40, (count, 2))), dim=1)
        boxes[1::3] = boxes[:1]
        targets.append(Target(boxes=boxes, labels=torch.arange(count)))
        expected += naive_match(anchors, boxes)
    matched = match_anchors(batch_anchors(anchors), targets)
    assert matched.anchor.tolist() == expected
    assert matched.image.tolist() == [1] * 6 + [3] * 9 + [4]
    assert matched.labels.tolist() == [*range(6), *range(9), 0]
    assert torch.equal(matched.boxes, torch.cat([item["boxes"] for item in targets]))


def test_matching_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
    same = [0.0, 0, 10, 10]
    # The second object finds its best anchor taken; the third overlaps no free one; for the fourth none is left.
    matched = match_anchors(batch_anchors(anchors), [target([same, same, [100, 100, 110, 110], same], [0, 1, 0, 1])])
    assert matched.anchor.tolist() == [0, 1, 2]
    assert matched.labels.tolist() == [0, 1, 0]


def test_class_loss_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    p = logits.softmax(dim=1)[0].tolist()
    expected = -math.log(p[1]) - math.log(1 - p[0]) - math.log(1 - p[2])
    assert float(class_loss(logits, torch.tensor([1]))) == pytest.approx(expected, rel=1e-5)
    one = torch.tensor([[3.0]], requires_grad=True)
    class_loss(one, torch.tensor([0])).backward()
    assert one.grad is not None and float(one.grad) == 0
    sure = torch.tensor([[200.0, -200.0]], requires_grad=True)  # wrong and saturated
    class_loss(sure, torch.tensor([1])).backward()
    assert sure.grad is not None and sure.grad.isfinite().all() and float(sure.grad[0, 0]) > 0


def test_losses_by_hand() -> None:
    model = small(dropout=0.0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    # A 16 x 16 image is one cell: step 8, three anchors centred on (8, 8).
    images = torch.rand(2, 3, 16, 16)
    losses = losses_of(model, images, [target([[3.0, 2.0, 13.0, 14.0], [0, 0, 12, 16]], [0, 1]), EMPTY])
    # Zero logits: p = 1/2 for both classes, so 2 log 2 per object.
    assert losses["loss_class"] == pytest.approx(2 * math.log(2), rel=1e-5)
    # Object 0 is anchor 0 exactly: no box error, and its decoded box has IoU 1.
    # Object 1 takes anchor 1, (24, 20) around (8, 8), clipped to the image: 16 x 16, IoU 12 * 16 / 256 = 0.75.
    deltas = [(6 - 8) / 24, 0.0, math.log(12 / 24), math.log(16 / 20)]
    assert losses["loss_box"] == pytest.approx(5 / 2 * sum(delta**2 for delta in deltas), rel=1e-4)
    # Confidence 1/2 everywhere. Objects: 75 / 8 times the mean. The rest: four anchors of mean square 1/4.
    on_objects = 75 / 8 / 2 * ((0.5 - 1) ** 2 + (0.5 - 0.75) ** 2)
    assert losses["loss_confidence"] == pytest.approx(on_objects + 100 * 0.25, rel=1e-4)


def objects_on_noise(images: int, seed: int = 0) -> tuple[Tensor, list[Target]]:
    """Images of 64 x 64, each with two objects."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, 2, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + 12 + torch.rand(images, 2, 2, generator=generator) * 20), dim=2)
    targets = [target(own, [0, 1]) for own in boxes.tolist()]
    return torch.rand(images, 3, 64, 64, generator=generator), targets


def test_no_loss_depends_on_how_many_images_a_process_sees_at_once() -> None:
    """Batches are repeated or split: what one GPU sees, and what processes or accumulated batches average."""
    model = small(dropout=0.0).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
    images, targets = objects_on_noise(8)
    once = losses_of(model, images, targets)
    for times in (2, 4):
        repeated = losses_of(model, images.repeat(times, 1, 1, 1), targets * times)
        assert repeated == pytest.approx(once, rel=1e-5)
    halves = [losses_of(model, images[part], targets[part]) for part in (slice(0, 4), slice(4, 8))]
    assert {name: (halves[0][name] + halves[1][name]) / 2 for name in once} == pytest.approx(once, rel=1e-5)


@torch.no_grad()
def test_the_confidence_loss_is_the_authors_for_the_eight_images_of_a_gpu() -> None:
    """Their formula in nn_skeleton.py; only they count the rest as A minus the objects of all images."""
    images, targets = objects_on_noise(8)
    model = small(dropout=0.0).eval()
    raw, anchors = model(images)
    matches = match_anchors(batch_anchors(anchors), targets)
    mask, ious = torch.zeros(2, *raw.confidence.shape)
    where = (matches.image, matches.anchor)
    mask[where] = 1
    ious[where] = iou(decode(raw.deltas[where], anchors[matches.anchor]).clamp(0, 64), matches.boxes)
    weights = mask * 75 / 16 + (1 - mask) * 100 / (len(anchors) - 2)
    theirs = ((ious - raw.confidence).square() * weights).sum(dim=1).mean()
    assert losses_of(model, images, targets)["loss_confidence"] == pytest.approx(float(theirs), rel=1e-5)


def test_ignored_anchors_leave_the_confidence_loss() -> None:
    model = small(dropout=0.0).eval()
    images = torch.rand(1, 3, 64, 64)
    anchors = model.grid((4, 4), (64, 64)).anchors().reshape(-1, 4)
    everything = target([], [], ignore=[[-100.0, -100, 200, 200]])
    assert losses_of(model, images, [everything])["loss_confidence"] == 0
    masked = ignored_anchors(batch_anchors(anchors), [target([], [], ignore=[[0.0, 0, 64, 30]]), EMPTY])
    assert masked is not None and not masked[1].any()
    for anchor, flag in zip(anchors.tolist(), masked[0].tolist(), strict=True):
        x1, y1, x2, y2 = anchor
        inside = max(min(x2, 64) - max(x1, 0), 0) * max(min(y2, 30) - max(y1, 0), 0)
        assert flag == (inside > 0.5 * (x2 - x1) * (y2 - y1))
    assert ignored_anchors(batch_anchors(anchors), [EMPTY]) is None
    # An object keeps its anchor even inside an ignore region.
    both = target([[10.0, 10, 30, 30]], [0], ignore=[[-100.0, -100, 200, 200]])
    assert losses_of(model, images, [both])["loss_confidence"] > 0


@pytest.mark.parametrize("targets", [[EMPTY, EMPTY], [EMPTY, target([[4.0, 4, 30, 40]], [1])]])
def test_gradient_reaches_every_parameter(targets: list[Target]) -> None:
    model = small().train()
    losses = model.losses(torch.rand(2, 3, 45, 67), targets)
    assert set(losses) == {"loss_class", "loss_box", "loss_confidence"}
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values(), torch.zeros(())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_losses_under_autocast_are_float32() -> None:
    model = small(dropout=0.0).eval()
    images, targets = torch.rand(2, 3, 32, 32), [EMPTY, target([[4.0, 4, 30, 30]], [1])]
    plain = model.losses(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.losses(images, targets)
    for name, value in cast.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, plain[name], rtol=0.05, atol=0.01)


def test_predictions_are_sorted_inside_and_above_the_threshold() -> None:
    model = small(detections=20, score_threshold=0.3).eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.3)
    images = torch.rand(3, 3, 48, 80)
    predictions = model.predict(images)
    raw, _ = model(images)
    scores = (raw.classes.softmax(dim=2) * raw.confidence[..., None]).amax(dim=2)
    assert sum(len(prediction["scores"]) for prediction in predictions) > 0
    for prediction, own in zip(predictions, scores, strict=True):
        boxes, score = prediction["boxes"], prediction["scores"]
        assert len(boxes) == len(score) == len(prediction["labels"]) <= 20
        assert (score > 0.3).all() and torch.equal(score, score.sort(descending=True).values)
        torch.testing.assert_close(score[0], own.max())
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= 80).all() and (boxes[:, 1::2] <= 48).all()
        for label in (0, 1):
            of_class = boxes[prediction["labels"] == label]
            overlaps = iou(of_class[:, None], of_class) - torch.eye(len(of_class))
            assert len(of_class) == 0 or overlaps.max() <= 0.4
    model.score_threshold = 1.0
    assert all(len(prediction["boxes"]) == 0 for prediction in model.predict(images))


def test_normalises_inside() -> None:
    plain = small(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    usual = small().eval()
    images = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    shifted = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(usual(images)[0].classes, plain(shifted)[0].classes)
    assert set(usual.state_dict()) == set(plain.state_dict())
    assert not any("mean" in name and "running" not in name for name in usual.state_dict())


def test_anchors_for() -> None:
    torch.manual_seed(0)
    shapes = torch.tensor([[20.0, 10.0], [10.0, 40.0], [80.0, 60.0]])
    boxes = (shapes[:, None] * (1 + 0.05 * torch.randn(3, 40, 2))).reshape(-1, 2)
    found = anchors_for(boxes, 3)
    assert found == anchors_for(boxes, 3)
    torch.testing.assert_close(torch.tensor(found), shapes, rtol=0.05, atol=0.5)
    assert anchors_for(torch.tensor([[3.0, 4.0]]).expand(5, 2)) == [(3.0, 4.0)]
    with pytest.raises(EyasError, match="no box"):
        anchors_for(torch.zeros(4, 2))


def padded(image: Tensor, height: int, width: int) -> Tensor:
    batch = filled(1, height, width, like=image)
    batch[:, :, : image.shape[2], : image.shape[3]] = image
    return batch


SIZES = [(64, 80), (50, 70), (96, 33)]
"""(height, width): multiples of the stride, and not."""


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_anchors_and_what_they_are_matched_to_do_not_depend_on_padding(size: tuple[int, int]) -> None:
    """With a head of constant output, so that only anchors, matches and ignore regions make the losses."""
    model = small(dropout=0.0).eval()
    model.head.weight.zero_()
    model.head.bias.normal_(std=0.5)
    image = torch.rand(1, 3, *size)
    height, width = size
    boxes = [
        [2.0, 3, 20, 30],
        [width - 15.0, 5, width, 25],
        [width - 9.0, height - 30.0, width - 1, height],
        [4, 4, 9, 9],
    ]
    own: Target = {**target(boxes, [0, 1, 1, 0], ignore=[[0.0, 20, width, 40]]), "size": size}
    alone, heads = model.losses_and_heads(image, [own])
    matched = heads.heads["classes"].boxes[0][heads.heads["classes"].matched.rows]
    for more in ((96, 128), (96, 320)):
        beside = (torch.rand(1, 3, *more), Target(**EMPTY, size=more))
        images = torch.cat((beside[0], padded(image, *more)))
        losses = model.losses(images[1:], [own])
        assert {name: value.item() for name, value in losses.items()} == pytest.approx(
            {name: value.item() for name, value in alone.items()}, rel=1e-5
        )
        both = model.losses_and_heads(images, [beside[1], own])[1].heads["classes"]
        rows = both.matched.rows
        torch.testing.assert_close(torch.cat(list(both.boxes))[rows], matched, rtol=0, atol=0)
        assert (rows >= len(both.boxes[0])).all()
        expected = model.grid((-(-height // 16), -(-width // 16)), size).anchors()
        seen = both.boxes[1].view(*(-(-side // 16) for side in more), len(SMALL_ANCHORS), 4)
        assert torch.equal(seen[: expected.shape[0], : expected.shape[1]], expected)


@pytest.mark.parametrize("method", [FGFI(), FGFI(psi=0.2, assignment="per_level"), BoxMask()])
@torch.no_grad()
def test_the_masks_of_an_image_do_not_depend_on_padding(method: FGFI | BoxMask) -> None:
    teacher = small().eval()
    batch = (96, 128)
    targets: list[Target] = []
    for seed, size in enumerate([*SIZES, batch]):
        boxes = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) * 25
        boxes = boxes + torch.tensor([size[1] - 50.0, 2, size[1] - 25, 30]).clamp(min=0)
        targets.append({"boxes": boxes, "labels": torch.zeros(3, dtype=torch.int64), "size": size})
    cells = [(-(-height // 16), -(-width // 16)) for height, width in (target["size"] for target in targets)]

    def masks(map_size: tuple[int, int], size: tuple[int, int], own: list[Target]) -> Tensor:
        features = torch.zeros(len(own), 1, *map_size)
        (mask,) = method.masks(View([features], list(teacher.levels.values()), size), own)
        return mask

    together = masks(cells[-1], batch, targets)
    assert together.shape == (4, 6, 8)
    for mask, (rows, columns), own in zip(together, cells, targets, strict=True):
        alone = masks((rows, columns), own["size"], [own])[0]
        assert alone.any() and torch.equal(mask[:rows, :columns], alone)
        assert mask.sum() == alone.sum()


@torch.no_grad()
def test_detections_do_not_depend_on_the_other_images_of_a_batch() -> None:
    model = small(score_threshold=0.0, detections=20).eval()
    model.head.weight.normal_(std=0.3)
    images = [torch.rand(1, 3, *size) for size in SIZES]
    batch = torch.cat([padded(image, 96, 80) for image in images])
    together = predict_batch(model, batch, [Target(**EMPTY, size=size) for size in SIZES])
    for found, image in zip(together, images, strict=True):
        (alone,) = model.predict(image)
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(found[key], alone[key])  # type: ignore[literal-required]


def test_bad_options_are_named() -> None:
    with pytest.raises(EyasError, match="classes"):
        ShuffleDet(())
    with pytest.raises(EyasError, match="anchor_shapes"):
        ShuffleDet(("a",), anchor_shapes=((0.0, 3.0),))
    with pytest.raises(EyasError, match="confidence_prior"):
        ShuffleDet(("a",), confidence_prior=0.0)
    with pytest.raises(EyasError, match="stem_channels"):
        ShuffleDet(("a",), width=0.25, stem_channels=60)


@pytest.mark.slow
def test_overfits_eight_images() -> None:
    torch.manual_seed(0)
    images, targets = torch.rand(8, 3, 64, 64) * 0.2, []
    for index, image in enumerate(images):
        x, y, label = 4 + 4 * index, 30 - 3 * index, index % 2
        image[label, y : y + 20, x : x + 24] += 0.7
        targets.append(target([[x, y, x + 24, y + 20]], [label]))
    model = small(dropout=0.0).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        sum(model.losses(images, targets).values(), torch.zeros(())).backward()
        optimiser.step()
    with torch.no_grad():  # the batch's own statistics: the running ones lag behind on eight images
        for _ in range(50):
            model(images)
    for prediction, truth in zip(model.eval().predict(images), targets, strict=True):
        assert prediction["labels"][0] == truth["labels"][0]
        assert iou(prediction["boxes"][0], truth["boxes"][0]) > 0.7
        assert prediction["scores"][0] > 0.5


def test_zero_init_residual_starts_units_with_a_shortcut_as_identities() -> None:
    from eyas.detectors.shuffledet.shufflenet import ShuffleNet

    network = ShuffleNet(0.25, 8, zero_init_residual=True).eval()
    x = torch.rand(2, 240, 5, 6)
    with_shortcut = [unit for unit in network.units if unit.shortcut]
    assert len(with_shortcut) == 12  # 3 + 5 + 3 in the groups, and the first of the two added units
    last = with_shortcut[-1]
    torch.testing.assert_close(last(x), x)
    assert not torch.allclose(ShuffleNet(0.25, 8).eval().units[-2](x), x)


def test_weights_for_other_classes_fit_but_for_the_predictor(tmp_path: Path) -> None:
    """As with torchvision's and transformers' detectors: the backbone is what a training starts from."""
    options = {"width": 0.25, "stem_channels": 8}
    trained = build("shuffledet", ("car", "van", "tram"), options=options)
    save_file(trained.network.state_dict(), tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"another number of classes.*head\.bias, head\.weight"):
        other = build("shuffledet", ("car",), weights=tmp_path / "model.safetensors", options=options)
    ours, theirs = other.network.state_dict(), trained.network.state_dict()
    same = [name for name in theirs if theirs[name].shape == ours[name].shape and torch.equal(ours[name], theirs[name])]
    assert set(theirs) - set(same) == {"head.weight", "head.bias"}
