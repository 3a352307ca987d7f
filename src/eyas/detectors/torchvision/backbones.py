"""Backbones by name: a trunk (VGG, ResNet, MobileNet, timm) with an FPN, or cut after one level.

A name may end in ``_fpn`` (a feature pyramid) or ``_c4`` (one map of stride 16). Without a suffix, a VGG has one map of
stride 16, as in the FGFI paper, and all others have an FPN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from eyas.nn.eval_mode import eval_mode
from eyas.types import EyasError

Norm = Literal["batch", "frozen"]
Top = Literal["pool", "p6p7"]
NormLayer = Callable[..., nn.Module]
Block: TypeAlias = type[BasicBlock] | type[Bottleneck]

VGGS = {"vgg11": ("A", False), "vgg11_bn": ("A", True), "vgg16": ("D", False), "vgg16_bn": ("D", True)}
"""Name -> torchvision's configuration and whether it has BatchNorm."""
MOBILENETS: dict[str, tuple[Callable[..., Any], float]] = {
    "mobilenet_v2": (mobilenet_v2, 1e-5),
    "mobilenet_v3_large": (mobilenet_v3_large, 1e-3),
    "mobilenet_v3_small": (mobilenet_v3_small, 1e-3),
}
"""Name -> torchvision's builder and the epsilon of its BatchNorm."""
RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Name -> block and blocks per stage."""
HALVES = {"resnet50_half": "resnet50", "resnet101_half": "resnet101"}
"""Half the width in every layer: the 50h and 101h students of the FGFI paper (section 4.2)."""
TRUNKS = (*VGGS, *RESNETS, *HALVES, *MOBILENETS)
TIMM = "timm:"
SUFFIXES = ("_fpn", "_c4")


@dataclass(frozen=True)
class Trunk:
    """The convolutional part of a classification network.

    Attributes:
        name: the backbone's name without its suffix.
        module: a sequence of layers with torchvision's names, or a timm network that returns its maps.
        layers: stride in pixels -> name and channels of the last layer of that stride.
    """

    name: str
    module: nn.Module
    layers: Mapping[int, tuple[str, int]]

    def require(self, strides: Sequence[int]) -> None:
        """Raises EyasError unless the trunk has a map of every stride."""
        missing = [stride for stride in strides if stride not in self.layers]
        if missing:
            known = ", ".join(map(str, self.layers))
            raise EyasError(f"backbone {self.name} has no map of stride {missing[0]}; it has {known}")


def split_name(backbone: str) -> tuple[str, bool]:
    """The trunk's name, and whether an FPN goes on top. Raises EyasError for an unknown name."""
    name, fpn = backbone, not backbone.startswith("vgg")
    for suffix in SUFFIXES:
        if backbone.endswith(suffix):
            name, fpn = backbone.removesuffix(suffix), suffix == "_fpn"
    if name not in TRUNKS and not name.startswith(TIMM):
        raise EyasError(
            f"there is no backbone {backbone!r}; choose from {', '.join(TRUNKS)} and timm:NAME, each also with _fpn "
            "(a feature pyramid) or _c4 (one map of stride 16) behind it"
        )
    return name, fpn


def make_trunk(name: str, norm: Norm = "batch") -> Trunk:
    """A trunk with random weights.

    Args:
        name: one of `TRUNKS`, or ``timm:NAME``.
        norm: "batch" trains BatchNorm; "frozen" keeps its loaded statistics and scales, for small batches.
    """
    if norm not in ("batch", "frozen"):
        raise EyasError(f"norm is {norm!r}; it can be batch or frozen")
    frozen = norm == "frozen"
    if name.startswith(TIMM):
        return _timm_trunk(name, frozen)
    layer: NormLayer = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    if name in VGGS:
        config, normalised = VGGS[name]
        module = make_layers(cfgs[config], batch_norm=normalised)
        # As in torchvision's VGG: PyTorch's default is too small for sixteen layers without normalisation.
        for conv in (part for part in module if isinstance(part, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # these have one
        if frozen:
            module = freeze_batch_norm(module)
    elif name in MOBILENETS:
        build, epsilon = MOBILENETS[name]
        module = build(weights=None, norm_layer=partial(layer, eps=epsilon)).features
    else:
        module = _resnet(HALVES.get(name, name), layer, 32 if name in HALVES else 64)
    return Trunk(name, module, last_layers(module))


def _resnet(name: str, norm: NormLayer, width: int) -> nn.Sequential:
    """The convolutional part of a ResNet (He et al., CVPR 2016): stem and ``layer1`` to ``layer4``, of strides 4 to 32.

    Tensors have torchvision's names. Width is that of the stem: 64 is torchvision's network, 32 halves every layer.
    """
    block, depths = RESNETS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        bn1=norm(width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = width
    for stage, depth in enumerate(depths):
        planes, stride = width * 2**stage, 1 if stage == 0 else 2
        outputs, shortcut = planes * block.expansion, None
        if stride != 1 or channels != outputs:
            shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), norm(outputs))
        blocks = [block(channels, planes, stride, shortcut, norm_layer=norm)]
        blocks += [block(outputs, planes, norm_layer=norm) for _ in range(1, depth)]
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        channels = outputs
    trunk = nn.Sequential(parts)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def last_layers(module: nn.Sequential, size: int = 64) -> dict[int, tuple[str, int]]:
    """Stride -> name and channels of the last layer of that stride, from running the layers on a blank image."""
    layers: dict[int, tuple[str, int]] = {}
    feature = torch.zeros(1, 3, size, size)
    with eval_mode(module), torch.no_grad():
        for name, part in module.named_children():
            feature = part(feature)
            layers[size // feature.shape[-1]] = (name, feature.shape[1])
    return layers


class PyramidBackbone(nn.Module):
    """A trunk and a feature pyramid: image to ``{"0": finest map, "1": ..., "pool" or "p6", "p7": ...}``.

    Its state dict has the names of torchvision's ``BackboneWithFPN``.

    Args:
        trunk: has a map of each of these strides.
        strides: strides of the trunk's maps that enter the pyramid.
        channels: number of channels of every map of the pyramid.
        top: the levels above the last map: "pool" subsamples it once (Faster R-CNN), "p6p7" applies two convolutions
            (RetinaNet, FCOS).
        norm: whether the pyramid has BatchNorm.
    """

    def __init__(self, trunk: Trunk, strides: Sequence[int], channels: int, top: Top, *, norm: bool = False) -> None:
        super().__init__()
        trunk.require(strides)
        layers = [trunk.layers[stride] for stride in strides]
        names = {layer: str(index) for index, (layer, _) in enumerate(layers)}
        layered = isinstance(trunk.module, nn.Sequential)
        self.body = IntermediateLayerGetter(trunk.module, names) if layered else TimmMaps(trunk.module, names)
        extra: ExtraFPNBlock = LastLevelMaxPool() if top == "pool" else LastLevelP6P7(channels, channels)
        self.fpn = FeaturePyramidNetwork(
            [width for _, width in layers], channels, extra_blocks=extra, norm_layer=nn.BatchNorm2d if norm else None
        )
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) to maps of (batch, channels, height / stride, width / stride)."""
        maps: dict[str, Tensor] = self.fpn(self.body(images))
        return maps


def single_level(trunk: Trunk, stride: int = 16) -> nn.Sequential:
    """The layers of a trunk up to the last one of a stride; ``out_channels`` is the number of its output channels."""
    trunk.require([stride])
    last, channels = trunk.layers[stride]
    if not isinstance(trunk.module, nn.Sequential):
        raise EyasError(f"backbone {trunk.name} comes with an FPN only; leave out _c4")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in trunk.module.named_children():
        parts[name] = part
        if name == last:
            break
    module = nn.Sequential(parts)
    module.out_channels = channels  # type: ignore[assignment]  # where torchvision looks for it
    return module


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm2d replaced by one with constant statistics and scales."""
    if isinstance(module, nn.BatchNorm2d):
        frozen: nn.Module = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module


class TimmMaps(nn.Module):
    """Selected maps of a timm feature network, by name."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        self.network = network
        self.names = dict(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.network(images)
        return OrderedDict((name, maps[int(index)]) for index, name in self.names.items())


def _timm_trunk(name: str, frozen: bool) -> Trunk:
    try:
        import timm
        from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]
    except ImportError as error:
        raise EyasError(f'backbone {name} needs timm, which is not installed: pip install "eyas[timm]"') from error
    try:
        network: Any = timm.create_model(name.removeprefix(TIMM), features_only=True, pretrained=False)
    except (RuntimeError, TypeError, AttributeError) as error:  # unknown, or without feature maps
        raise EyasError(f"backbone {name}: timm cannot build it as a feature network ({error})") from error
    channels, strides = network.feature_info.channels(), network.feature_info.reduction()
    layers = {stride: (str(index), width) for index, (stride, width) in enumerate(zip(strides, channels, strict=True))}
    return Trunk(name, freeze_batch_norm_2d(network) if frozen else network, layers)
