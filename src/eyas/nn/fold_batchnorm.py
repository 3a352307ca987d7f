"""A frozen network's BatchNorms folded into the convolutions before them: its maps stay, a pass over each is saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from eyas.nn.taps import probe
from eyas.types import Detector, EyasError

Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d

TOLERANCE = 1e-3
"""How far a map may move, relative to its largest value: rounding stays far below, a wrong pair goes far above."""


def fold_batch_norms(detector: Detector) -> int:
    """Fold, in place, every BatchNorm that follows a convolution on the way to the detector's levels.

    For a frozen teacher: what is saved of it afterwards has other tensors. Pairs are found by watching one random image
    pass, not by names. A convolution that is a level's tap itself, or any module that runs twice, stays.

    Args:
        detector: frozen, in evaluation mode.

    Returns:
        The number of BatchNorms folded.

    Raises:
        EyasError: the maps changed, since something else reads a convolution's output too; all is as it was before.
    """
    names = list(detector.levels)
    with _watched(detector.network) as pairs:
        before = probe(detector, names, "teacher")
    tapped = {detector.network.get_submodule(name.partition(":")[0]) for name in names}
    replacements: dict[nn.Module, nn.Module] = {}
    for norm, conv in pairs.items():
        if conv not in tapped:
            replacements |= {conv: _folded(conv, norm), norm: nn.Identity()}
    _replace(detector.network, replacements)
    after = probe(detector, names, "teacher")
    moved = [name for name in names if not _same(before[name], after[name])]
    if moved:
        _replace(detector.network, {new: old for old, new in replacements.items()})
        raise EyasError(
            f"the teacher's BatchNorms cannot be folded into its convolutions: {', '.join(moved)} would change: "
            "something besides the BatchNorm reads a convolution's output"
        )
    return len(replacements) // 2


def fold_teacher(teacher: Detector, say: Callable[[str], None]) -> None:
    """Fold the BatchNorms of a teacher that only runs from now on; say what became of it."""
    try:
        folded = fold_batch_norms(teacher)
    except EyasError as error:
        say(f"warning   {error}; it runs as it is")
    else:
        if folded:
            say(f"teacher   {folded} BatchNorms folded into its convolutions")


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[Norm, nn.Conv2d]]:
    """Afterwards: BatchNorm -> the convolution whose output it read, of those that ran once inside.

    Exact types: a subclass may do more, as timm's, whose BatchNorm is an activation too.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is held, or its id might become another's
    found: list[tuple[Norm, nn.Conv2d]] = []

    def ran(conv: nn.Conv2d, _: Any, output: Tensor) -> None:
        times[conv] += 1
        outputs[id(output)] = conv, output

    def reads(norm: Norm, inputs: tuple[Tensor, ...], _: Any) -> None:
        if id(inputs[0]) in outputs and norm.running_mean is not None:
            found.append((norm, outputs[id(inputs[0])][0]))
        times[norm] += 1

    times: Counter[nn.Module] = Counter()
    handles = []
    for module in network.modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(ran))
        elif type(module) in (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d):
            handles.append(module.register_forward_hook(reads))
    pairs: dict[Norm, nn.Conv2d] = {}
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()
    pairs.update({norm: conv for norm, conv in found if times[norm] == times[conv] == 1})


def _folded(conv: nn.Conv2d, norm: Norm) -> nn.Conv2d:
    statistics = cast(tuple[Tensor, Tensor], (norm.running_mean, norm.running_var))
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.eps, norm.weight, norm.bias)
    new = deepcopy(conv)
    new.weight, new.bias = weight.requires_grad_(False), bias.requires_grad_(False)
    return new


def _replace(network: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]


def _same(before: Tensor, after: Tensor) -> bool:
    scale = before.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return bool((before - after).abs().max() <= TOLERANCE * scale)
