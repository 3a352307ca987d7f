"""Backbones against torchvision's, tensor by tensor, and the strides and channels they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d

from eyas.detectors import build
from eyas.detectors.torchvision.backbones import (
    PyramidBackbone,
    freeze_batch_norm,
    make_trunk,
    single_level,
    split_name,
)
from eyas.detectors.torchvision.faster_rcnn import DropoutHead, StageHead
from eyas.types import EyasError


@pytest.mark.parametrize(
    ("name", "trunk", "fpn"),
    [
        ("resnet18", "resnet18", True),
        ("resnet50_c4", "resnet50", False),
        ("resnet101_half_fpn", "resnet101_half", True),
        ("resnet50_half_c4", "resnet50_half", False),
        ("vgg11", "vgg11", False),
        ("vgg16_fpn", "vgg16", True),
        ("mobilenet_v2", "mobilenet_v2", True),
        ("timm:resnet10t", "timm:resnet10t", True),
    ],
)
def test_names(name: str, trunk: str, fpn: bool) -> None:
    assert split_name(name) == (trunk, fpn)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(EyasError, match=r"resnet19.*vgg11.*resnet101_half.*timm:NAME"):
        split_name("resnet19")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vgg11", {4: 256, 8: 512, 16: 512, 32: 512}),
        ("vgg16", {4: 256, 8: 512, 16: 512, 32: 512}),
        ("resnet18", {4: 64, 8: 128, 16: 256, 32: 512}),
        ("resnet50_half", {4: 128, 8: 256, 16: 512, 32: 1024}),
        ("mobilenet_v2", {4: 24, 8: 32, 16: 96, 32: 1280}),
        ("mobilenet_v3_small", {4: 16, 8: 24, 16: 48, 32: 576}),
        ("timm:mobilenetv3_small_050", {4: 8, 8: 16, 16: 24, 32: 288}),
    ],
)
def test_channels_of_each_stride(name: str, channels: dict[int, int]) -> None:
    trunk = make_trunk(name)
    assert {stride: trunk.layers[stride][1] for stride in (4, 8, 16, 32)} == channels


def test_resnet_is_torchvisions() -> None:
    torch.manual_seed(0)
    trunk, theirs = make_trunk("resnet18").module.eval(), resnet18(weights=None).eval()
    weights = {key: tensor for key, tensor in trunk.state_dict().items() if not key.startswith("fc.")}
    theirs.load_state_dict({**weights, "fc.weight": torch.eye(1000, 512), "fc.bias": torch.zeros(1000)})
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images).mean(dim=(2, 3)), theirs(images)[:, :512])


def test_half_has_half_the_channels_in_every_layer() -> None:
    half, full = make_trunk("resnet50_half").module.state_dict(), make_trunk("resnet50").module.state_dict()
    assert half.keys() == full.keys()
    for name, tensor in full.items():
        wanted = [side // 2 if axis < 2 else side for axis, side in enumerate(tensor.shape)]
        if name == "conv1.weight":
            wanted[1] = 3
        assert list(half[name].shape) == wanted, name


def test_pyramid_and_single_level() -> None:
    pyramid = PyramidBackbone(make_trunk("mobilenet_v2"), (8, 16, 32), 32, "p6p7").eval()
    maps = pyramid(torch.rand(1, 3, 128, 64))
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
        "0": (32, 16, 8),
        "1": (32, 8, 4),
        "2": (32, 4, 2),
        "p6": (32, 2, 1),
        "p7": (32, 1, 1),
    }
    vgg = single_level(make_trunk("vgg11"))
    # All of VGG-11 but its last pooling: the conv5 map of Faster R-CNN.
    assert len(vgg) == 20
    assert vgg(torch.rand(1, 3, 64, 96)).shape == (1, 512, 4, 6)
    with pytest.raises(EyasError, match=r"no map of stride 64; it has .*32"):
        PyramidBackbone(make_trunk("resnet18"), (8, 64), 32, "pool")


def test_roi_heads_follow_the_backbone() -> None:
    small = {"head_width": 8, "proposals_train": 5}
    heads = {
        name: build("faster_rcnn", ["a"], backbone=name, options=small).network.roi_heads.box_head
        for name in ("vgg11", "resnet18_c4", "mobilenet_v3_small_c4")
    }
    assert isinstance(heads["vgg11"], DropoutHead)
    assert heads["vgg11"].fc6.in_features == 512 * 7 * 7
    assert isinstance(heads["resnet18_c4"], StageHead)
    assert heads["resnet18_c4"](torch.rand(2, 256, 14, 14)).shape == (2, 512)
    assert type(heads["mobilenet_v3_small_c4"]) is TwoMLPHead


def test_frozen_batch_norm() -> None:
    trunk = make_trunk("mobilenet_v3_small", "frozen")
    kinds = {type(module) for module in trunk.module.modules()}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    norm = nn.Sequential(nn.BatchNorm2d(4, eps=0.1)).eval()
    norm[0].running_var.uniform_(1, 2)
    image = torch.rand(1, 4, 3, 3)
    expected = norm(image)
    torch.testing.assert_close(freeze_batch_norm(norm).train()(image), expected)
    with pytest.raises(EyasError, match="batch or frozen"):
        make_trunk("resnet18", "group")  # type: ignore[arg-type]


def test_unknown_timm_network() -> None:
    with pytest.raises(EyasError, match="timm:no_such_network"):
        make_trunk("timm:no_such_network")


def test_build_lists_what_there_is() -> None:
    with pytest.raises(EyasError, match="choose from faster_rcnn, retinanet, fcos, ssd, shuffledet"):
        build("yolo", ["a"])
    with pytest.raises(EyasError, match=r"no option 'depth'; it has .*fpn_channels"):
        build("retinanet", ["a"], backbone="resnet18", options={"depth": 3})
    with pytest.raises(EyasError, match="needs a backbone"):
        build("retinanet", ["a"])
    with pytest.raises(EyasError, match="own backbone"):
        build("shuffledet", ["a"], backbone="resnet18")
    with pytest.raises(EyasError, match="at least one class"):
        build("shuffledet", [])
    with pytest.raises(EyasError, match="each of the backbone's 5 levels"):
        build("retinanet", ["a"], backbone="mobilenet_v3_small", options={"anchor_sizes": [16, 32]})
    assert len(build("shuffledet", ["a"], options={"width": 0.25, "stem_channels": 8}).levels) == 1
