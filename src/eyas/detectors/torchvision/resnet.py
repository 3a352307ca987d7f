"""ResNets of any width (He et al., CVPR 2016) with torchvision's tensor names, without the classification layer.

Half the width in every layer gives the 101h and 50h students of the FGFI paper (section 4.2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

NormLayer = Callable[..., nn.Module]

LAYOUTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Name -> block and blocks per stage."""


def resnet(name: str, norm: NormLayer = nn.BatchNorm2d, *, width: int = 64) -> nn.Sequential:
    """The convolutional part of a ResNet: stem and ``layer1`` to ``layer4``, of strides 4, 8, 16 and 32.

    Args:
        name: a key of `LAYOUTS`.
        norm: channels -> normalisation layer.
        width: channels of the stem; 64 is torchvision's network, 32 halves every layer.
    """
    block, depths = LAYOUTS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        bn1=norm(width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = width
    for stage, depth in enumerate(depths):
        planes, stride = width * 2**stage, 1 if stage == 0 else 2
        parts[f"layer{stage + 1}"] = _stage(block, channels, planes, depth, stride, norm)
        channels = planes * block.expansion
    trunk = nn.Sequential(parts)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, depth: int, stride: int, norm: NormLayer
) -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != outputs:
        shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), norm(outputs))
    blocks = [block(channels, planes, stride, shortcut, norm_layer=norm)]
    blocks += [block(outputs, planes, norm_layer=norm) for _ in range(1, depth)]
    return nn.Sequential(*blocks)
