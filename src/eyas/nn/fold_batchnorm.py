"""Folds frozen BatchNorm into the preceding convolution: same outputs, one memory pass less per layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from eyas.nn.eval_mode import eval_mode
from eyas.nn.failures import running
from eyas.nn.taps import probe, probe_images
from eyas.types import Detector, EyasError, NoDetectionsError

Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d

TOLERANCE = 1e-3
"""The largest change of a map, relative to its largest value: rounding stays far below it, a wrong fold far above."""


def fold_batch_norms(detector: Detector) -> int:
    """Fold, in place, every BatchNorm that follows a convolution on the way to the detector's levels.

    Only for a frozen teacher: its state dict has other tensors afterwards. Pairs are found from a forward pass of one
    random image through the whole detector, not from names. A convolution stays that is itself tapped, that another
    module reads too, or that has hooks, and so does a module that runs twice.

    Args:
        detector: frozen, in evaluation mode.

    Returns:
        The number of BatchNorms folded.

    Raises:
        EyasError: the detector fails on the image, or folding would change a level's map, because something else also
            reads a convolution's output. The detector is left as it was.
    """
    names = list(detector.levels)
    with _record_pairs(detector.network) as pairs:
        _run(detector)
    before = probe(detector, names, "teacher")
    tapped = {detector.network.get_submodule(name.partition(":")[0]) for name in names}
    replacements: dict[nn.Module, nn.Module] = {}
    for norm, conv in pairs.items():
        if conv not in tapped:
            replacements |= {conv: _folded(conv, norm), norm: nn.Identity()}
    _replace(detector.network, replacements)
    try:
        after = probe(detector, names, "teacher")
        if changed := [name for name in names if not _close(before[name], after[name])]:
            raise EyasError(
                f"the teacher's BatchNorms cannot be folded into its convolutions: {', '.join(changed)} would change: "
                "something besides the BatchNorm reads a convolution's output"
            )
    except EyasError:
        _replace(detector.network, {new: old for old, new in replacements.items()})
        raise
    return len(replacements) // 2


def _run(detector: Detector) -> None:
    """Run the whole detector on the image of `probe`, its heads too."""
    images = probe_images(detector)
    with eval_mode(detector.network), torch.no_grad(), suppress(NoDetectionsError), running("the teacher", images):
        detector.predict(images)


def fold_teacher(teacher: Detector, say: Callable[[str], None]) -> None:
    """Fold the BatchNorms of a frozen teacher and say how many; if that fails, warn and leave the teacher as it is."""
    try:
        folded = fold_batch_norms(teacher)
    except EyasError as error:
        say(f"warning   {error}; it runs as it is")
    else:
        if folded:
            say(f"teacher   {folded} BatchNorms folded into its convolutions")


@contextmanager
def _record_pairs(network: nn.Module) -> Iterator[dict[Norm, nn.Conv2d]]:
    """Yields a dict that is filled on exit: BatchNorm -> the convolution whose output it alone read.

    Modules that did not run exactly once inside the context are left out. Types must match exactly, because a subclass
    may do more (timm's BatchNorm includes an activation), and so may hooks, as those of an old weight_norm.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors alive, so that ids are not reused
    found: list[tuple[Norm, nn.Conv2d]] = []
    times: Counter[nn.Module] = Counter()
    readers: Counter[nn.Conv2d] = Counter()

    def before_leaf(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        readers.update(outputs[id(value)][0] for value in inputs if id(value) in outputs)

    def after_conv(conv: nn.Conv2d, _: Any, output: Tensor) -> None:
        times[conv] += 1
        outputs[id(output)] = conv, output

    def after_norm(norm: Norm, inputs: tuple[Tensor, ...], _: Any) -> None:
        if id(inputs[0]) in outputs and norm.running_mean is not None:
            found.append((norm, outputs[id(inputs[0])][0]))
        times[norm] += 1

    hooks: dict[type[nn.Module], Callable[..., None]] = dict.fromkeys(get_args(Norm), after_norm)
    hooks[nn.Conv2d] = after_conv
    leaves = [module for module in network.modules() if not any(module.children())]
    plain = [module for module in leaves if not (module._forward_hooks or module._forward_pre_hooks)]
    handles = [module.register_forward_pre_hook(before_leaf) for module in leaves]
    handles += [module.register_forward_hook(hooks[type(module)]) for module in plain if type(module) in hooks]
    pairs: dict[Norm, nn.Conv2d] = {}
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()
    pairs.update({norm: conv for norm, conv in found if times[norm] == times[conv] == readers[conv] == 1})


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


def _close(before: Tensor, after: Tensor) -> bool:
    scale = before.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return bool((before - after).abs().max() <= TOLERANCE * scale)
