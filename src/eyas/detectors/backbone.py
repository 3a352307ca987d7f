"""What the backbone of a detector is, as its adapter says, and the stages that it has."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import PROBE_SIZE, some_parameter, stopping_after
from eyas.types import Detector, EyasError, NoDetectionsError


@runtime_checkable
class WithBackbone(Protocol):
    """A detector that says which part of it is the backbone."""

    @property
    def backbone_name(self) -> str | None:
        """The submodule of `network` from the image to the maps that a feature pyramid, an encoder or a head reads;
        None where it is unknown."""


def backbone_of(detector: Detector) -> str:
    """The dotted name of the backbone in the detector's network. Raises EyasError where it is unknown."""
    name = detector.backbone_name if isinstance(detector, WithBackbone) else None
    if name is None:
        raise EyasError(
            f"which part of this {type(detector).__name__} is the backbone is unknown; name submodules of its network, "
            "or say it with CustomDetector(backbone=...)"
        )
    return name


def backbone_stages(detector: Detector) -> list[list[str]]:
    """The names of the submodules of each stage of the backbone, from the image on.

    A stage is the parts in a row whose maps have one size: a ResNet's are ``conv1`` and ``bn1``, then ``layer1``,
    ``layer2`` and so on. Each block of a transformer, which returns tokens, is a stage. Parts without weights are left
    out.

    Raises:
        EyasError: the backbone is unknown.
    """
    network, name = detector.network, backbone_of(detector)
    sizes: dict[str, Hashable] = {}

    def note(part: str, _: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor) and part not in sizes:
            sizes[part] = output.shape[2:] if output.ndim == 4 else part

    backbone = network.get_submodule(name)
    handles = [
        module.register_forward_hook(partial(note, f"{name}.{part}"))
        for part, module in backbone.named_modules()
        if part
    ]
    images = torch.zeros(1, 3, *PROBE_SIZE).to(some_parameter(detector))
    try:
        # To the backbone's end, since the last level may come before its last part; where it is not called as a whole,
        # to that of the network.
        with eval_mode(network), torch.no_grad(), suppress(NoDetectionsError), stopping_after(network, [name]):
            detector.predict(images)
    finally:
        for handle in handles:
            handle.remove()
    parts = [part for part in _parts(name, backbone, sizes) if network.get_submodule(part).state_dict()]
    return [list(group) for _, group in groupby(parts, key=lambda part: sizes[part])]


def _parts(name: str, module: nn.Module, sizes: Mapping[str, Hashable]) -> Iterator[str]:
    """The outermost submodules that return one tensor; of a sequence whose maps have several sizes, its entries."""
    for part, child in module.named_children():
        full = f"{name}.{part}"
        inner = {sizes.get(f"{full}.{entry}") for entry, _ in child.named_children()}
        if full in sizes and not (isinstance(child, nn.Sequential) and len(inner) > 1):
            yield full
        else:
            yield from _parts(full, child, sizes)
