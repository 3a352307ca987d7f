"""The torchvision adapter against torchvision itself: anchors, labels, level rules, weights and detections."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    ssd300_vgg16,
)

from eyas.detectors import TorchvisionDetector, build
from eyas.detectors.torchvision.adapter import first_label
from eyas.types import Detector, EyasError, Target

CLASSES = ("cat", "dog")
FAMILIES = ("faster_rcnn", "retinanet", "fcos", "ssd")
LIGHT: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"fpn_channels": 16, "head_width": 16, "proposals_train": 20, "proposals_test": 20},
    "retinanet": {"fpn_channels": 16, "head_convs": 1, "head_norm": True, "score_threshold": 0.0, "detections": 10},
    "fcos": {"fpn_channels": 64, "head_convs": 1, "score_threshold": 0.0, "detections": 10},
    "ssd": {"extra_channels": 16},
}


@cache
def light(family: str) -> TorchvisionDetector:
    torch.manual_seed(0)
    detector = build(family, CLASSES, backbone="mobilenet_v3_small", options=LIGHT[family])
    assert isinstance(detector, TorchvisionDetector)
    return detector


def target(*boxes: tuple[float, float, float, float], label: int = 1) -> Target:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.full((len(boxes),), label),
    }


def generator_of(detector: TorchvisionDetector) -> nn.Module:
    network = detector.network
    return network.rpn.anchor_generator if isinstance(network, FasterRCNN) else network.anchor_generator


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_and_images_without_boxes(family: str) -> None:
    detector = light(family).train()
    assert isinstance(detector, Detector)
    images = torch.rand(2, 3, 96, 128)
    for targets in ([target((10, 12, 50, 60)), target()], [target(), target()]):
        detector.zero_grad()
        losses = detector.losses(images, targets)
        assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad for p in detector.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert losses["bbox_regression" if family != "faster_rcnn" else "loss_box_reg"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_lie_in_the_frame_and_have_labels_from_zero(family: str) -> None:
    detector = light(family).eval()
    with torch.no_grad():
        found = detector.predict(torch.rand(2, 3, 100, 130))  # 28 and 30 pixels are padded
    for prediction in found:
        boxes, scores, labels = prediction["boxes"], prediction["scores"], prediction["labels"]
        assert len(boxes) == len(scores) == len(labels) > 0
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= 130
        assert boxes[:, [1, 3]].max() <= 100
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert set(labels.tolist()) <= {0, 1}


@pytest.mark.parametrize("size", [(96, 128), (60, 130)])
@pytest.mark.parametrize("family", FAMILIES)
def test_grids_are_the_anchors_that_torchvision_makes(family: str, size: tuple[int, int]) -> None:
    detector = light(family).eval()
    caught: list[tuple[list[tuple[int, int]], Tensor]] = []

    def keep(_: nn.Module, args: tuple[Any, list[Tensor]], output: list[Tensor]) -> None:
        caught.append(([(m.shape[-2], m.shape[-1]) for m in args[1]], output[0]))

    handle = generator_of(detector).register_forward_hook(keep)
    with torch.no_grad():
        detector.predict(torch.rand(1, 3, *size))
    handle.remove()
    (sizes, anchors), levels = caught[0], detector.levels.values()
    ours = [level.grid(cells, size).anchors().reshape(-1, 4) for level, cells in zip(levels, sizes, strict=True)]
    if family == "ssd":  # relative to the image there, so that the last bits differ
        torch.testing.assert_close(torch.cat(ours), anchors, atol=1e-4, rtol=0)
    else:
        assert torch.equal(torch.cat(ours), anchors)


@pytest.mark.parametrize(("family", "shift"), [("faster_rcnn", 1), ("retinanet", 0), ("fcos", 0), ("ssd", 1)])
def test_labels_are_shifted_where_zero_is_the_background(family: str, shift: int) -> None:
    detector = light(family).train()
    seen: list[Any] = []
    answer = {"boxes": torch.zeros(2, 4), "scores": torch.tensor([0.2, 0.9]), "labels": torch.tensor([0, 1]) + shift}
    hooks = [
        detector.network.register_forward_pre_hook(lambda _, args: seen.append(args)),
        detector.network.register_forward_hook(lambda _, args, output: [answer]),
    ]
    detector.losses(torch.rand(1, 3, 64, 64), [target((5, 5, 40, 40), label=1)])
    found = detector.eval().predict(torch.rand(1, 3, 64, 64))[0]
    for hook in hooks:
        hook.remove()
    assert seen[0][1][0]["labels"].tolist() == [1 + shift]
    assert found["labels"].tolist() == [1, 0]


def test_retinanet_heads_with_an_unused_background_class_are_shifted() -> None:
    network = light("retinanet").network  # for two classes
    assert (first_label(network, 2), first_label(network, 1)) == (0, 1)
    with pytest.raises(EyasError, match="2 classes, background included"):
        first_label(network, 3)
    with pytest.raises(EyasError, match="3 classes, background included"):
        first_label(light("ssd").network, 3)


def test_box_ranges_are_those_of_the_roi_pooler() -> None:
    detector = light("faster_rcnn")
    ranges = [level.box_range for level in detector.levels.values()]
    assert ranges[-1] == (0.0, 0.0)  # the level above the pooled ones proposes only
    sides = torch.cat((torch.rand(500) * 900 + 1, torch.tensor([112.0, 224.0, 448.0])))
    zeros = torch.zeros_like(sides)
    chosen = detector.network.roi_heads.box_roi_pool.map_levels([torch.stack((zeros, zeros, sides, sides), dim=1)])
    for side, level in zip(sides.tolist(), chosen.tolist(), strict=True):
        assert [r is not None and r[0] <= side < r[1] for r in ranges].index(True) == level


def test_fcos_box_ranges() -> None:
    # Tian et al. regress up to 64 pixels from the centre on P3, 64 to 128 on P4: sides up to 128, 128 to 256.
    ranges = [level.box_range for level in light("fcos").levels.values()]
    assert ranges == [(0, 128), (128, 256), (256, 512), (512, 1024), (1024, float("inf"))]


def test_levels() -> None:
    names = list(light("retinanet").levels)
    assert names == ["backbone:0", "backbone:1", "backbone:2", "backbone:p6", "backbone:p7"]
    assert [level.stride for level in light("retinanet").levels.values()] == [8, 16, 32, 64, 128]
    assert {level.channels for level in light("retinanet").levels.values()} == {16}
    assert [level.stride for level in light("ssd").levels.values()] == [16, 32, 64, 128, 256]


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_and_anchors_stay_float32_under_autocast(family: str) -> None:
    detector = light(family).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.predict(images)[0]
    assert found["boxes"].dtype == torch.float32
    anchors = getattr(generator_of(detector), "cell_anchors", [])
    assert all(cell.dtype == torch.float32 for cell in anchors)
    detector.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector.losses(images, [target((5, 5, 40, 40))])
    assert all(loss.isfinite() for loss in losses.values())


def test_fcos_refuses_channels_that_its_head_cannot_normalise() -> None:
    with pytest.raises(EyasError, match="cannot be 48"):
        build("fcos", CLASSES, backbone="mobilenet_v3_small", options={"fpn_channels": 48})


def test_wrong_mode_is_refused() -> None:
    with pytest.raises(EyasError, match="training mode"):
        light("retinanet").eval().losses(torch.rand(1, 3, 64, 64), [target()])
    with pytest.raises(EyasError, match="evaluation mode"):
        light("retinanet").train().predict(torch.rand(1, 3, 64, 64))


def test_other_models_are_refused() -> None:
    with pytest.raises(EyasError, match="CustomDetector"):
        TorchvisionDetector(nn.Conv2d(3, 3, 1), CLASSES)


@pytest.mark.parametrize(
    ("family", "backbone", "plain", "classes", "size"),
    [
        ("faster_rcnn", "resnet50", fasterrcnn_resnet50_fpn, 3, (64, 96)),
        ("retinanet", "resnet50_fpn", retinanet_resnet50_fpn, 2, (64, 96)),
        ("fcos", "resnet50", fcos_resnet50_fpn, 2, (64, 96)),
        ("ssd", "vgg16", ssd300_vgg16, 3, (300, 300)),
    ],
)
def test_weights_load_in_plain_torchvision(
    family: str, backbone: str, plain: Any, classes: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    few = {"proposals_test": 30} if family == "faster_rcnn" else {"detections": 20, "score_threshold": 0.0}
    ours = build(family, CLASSES, backbone=backbone, options=few)
    options: dict[str, Any] = {"min_size": size[0], "max_size": size[1]} if family != "ssd" else {}
    if family == "faster_rcnn":
        options |= {"rpn_pre_nms_top_n_test": 30, "rpn_post_nms_top_n_test": 30}
    else:
        options |= {"detections_per_img": 20, "score_thresh": 0.0}
    theirs = plain(weights=None, weights_backbone=None, num_classes=classes, **options).eval()
    theirs.load_state_dict(ours.network.state_dict(), strict=True)
    ours.network.eval()
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        found, expected = ours.predict(images)[0], theirs(list(images))[0]
    torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["boxes"], expected["boxes"], atol=1e-2, rtol=1e-4)
    assert torch.equal(found["labels"] + (classes - 2), expected["labels"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_can_be_built_without_memory(family: str) -> None:
    """As it is to see how large a description's network is, before anything is loaded into it."""
    with torch.device("meta"):
        built = build(family, CLASSES, backbone="mobilenet_v3_small", options=LIGHT[family])
    assert all(value.is_meta for value in built.network.parameters())
    for own, level in zip(built.levels.values(), light(family).levels.values(), strict=True):
        assert (own.channels, own.stride, own.box_range) == (level.channels, level.stride, level.box_range)


def test_levels_of_equal_stride_share_what_the_first_pools() -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    levels = list(TorchvisionDetector(model, ("a", "b")).levels.values())
    assert [level.stride for level in levels] == [32, 32, 64]
    assert levels[0].box_range == (0.0, float("inf"))
    assert all(low >= high for low, high in (level.box_range for level in levels[1:]))


def test_what_learns_masks_can_teach_and_is_not_trained() -> None:
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, box_detections_per_img=5)
    detector = TorchvisionDetector(network, CLASSES)
    assert len(detector.levels) == 5
    target: Target = {"boxes": torch.tensor([[1.0, 2, 30, 40]]), "labels": torch.zeros(1, dtype=torch.int64)}
    with pytest.raises(EyasError, match=r"MaskRCNN also learns masks .* cannot be trained here"):
        detector.train().losses(torch.rand(1, 3, 64, 64), [target])
