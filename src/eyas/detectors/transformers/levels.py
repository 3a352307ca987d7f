"""The levels of a transformers detector: the modules that return its maps, and its tokens reshaped to maps.

No backbone's names appear here. A forward pass shows which module returned the tensors that the backbone and the
encoder pass on, so backbones of transformers and of timm are found alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eyas.detectors.transformers.families import TokenSource
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import stopping_after
from eyas.ops.anchors import StrideGrid
from eyas.types import EyasError, Level, Size, size_of

TOKEN_MAPS = "token_maps"  # nosec B105
"""Name of the `TokenMaps` inside a network."""
PARTS = (TOKEN_MAPS, "model.encoder", "model.backbone", "model.conv_encoder")
"""The modules that pass maps on, last in the network first: of two maps of one stride, the first is paired."""
PROBE_SIDE = 128
"""Pixels; the least side of the probe image."""


class TokenMaps(nn.Module):
    """An identity that tokens pass through as maps, so that taps can read them.

    A transformer's tokens are (batch, tokens, channels), and no module of the library returns them as a map. Hooks send
    them through this module: the next module gets the same numbers, and the loss's gradient passes through the maps.
    It has no parameters, so the library's state dict does not change.
    """

    def __init__(self, count: int, before: int) -> None:
        super().__init__()
        self.before = before
        self.sizes: list[Size] = [(0, 0)] * count

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(maps)

    # The hooks are bound methods: a deep copy of the network binds them to the copy.
    def note_size(self, index: int, _: nn.Module, arguments: Any, output: Tensor) -> None:
        self.sizes[index] = size_of(output)

    def of_input(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.through(arguments[0]), *arguments[1:])

    def of_output(self, _: nn.Module, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = self.through(output.last_hidden_state)
        return output

    def through(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, tokens, channels), unchanged; those of cells pass through `forward` as maps."""
        counts = [self.before, *(height * width for height, width in self.sizes)]
        front, *cells, behind = tokens.split([*counts, tokens.shape[1] - sum(counts)], dim=1)
        maps = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(cells, self.sizes, strict=True)]
        return torch.cat((front, *(passed.flatten(2).transpose(1, 2) for passed in self(maps)), behind), dim=1)


def add_token_maps(network: nn.Module, source: TokenSource) -> None:
    """Put a `TokenMaps` into a network that has none yet."""
    if hasattr(network, TOKEN_MAPS):
        return
    size = network.get_submodule(source.size)
    sized = list(size) if isinstance(size, nn.ModuleList) else [size]
    maps = TokenMaps(len(sized), source.before)
    for index, module in enumerate(sized):
        module.register_forward_hook(partial(maps.note_size, index))
    holder = network.get_submodule(source.module)
    if source.of_input:
        holder.register_forward_pre_hook(maps.of_input)
    else:
        holder.register_forward_hook(maps.of_output)
    network.add_module(TOKEN_MAPS, maps)


def derive_levels(network: nn.Module, divisor: int, scale: float, ratios: Sequence[float]) -> dict[str, Level]:
    """The levels of a detector, with its token maps, from one forward pass: strides, channels and tap names.

    Leaves out maps that depend on no trainable parameter, because nothing can learn from them, unless the whole network
    is frozen, as in a teacher.

    Args:
        network: the detector.
        divisor: the sides of its input must be multiples of it.
        scale: see `StrideGrid`.
        ratios: see `StrideGrid`.

    Raises:
        EyasError: no module returns a map.
    """
    side = -(-PROBE_SIDE // divisor) * divisor
    frozen = not any(parameter.requires_grad for parameter in network.parameters())
    maps = {name: tensor for name, tensor in probe_maps(network, side).items() if frozen or tensor.requires_grad}
    if not maps:
        raise EyasError(
            f"no module of the {type(network).__name__} returns a map that can be learnt from; bring it in through "
            "eyas.detectors.custom.CustomDetector, which takes the names of the modules to tap"
        )
    strides = {name: round(side / tensor.shape[-2]) for name, tensor in maps.items()}
    return {
        name: Level(tensor.shape[1], strides[name], StrideGrid(strides[name], scale, tuple(ratios)))
        for name, tensor in sorted(maps.items(), key=lambda item: strides[item[0]])
    }


def probe_maps(network: nn.Module, side: int) -> dict[str, Tensor]:
    """Tap name -> map of a blank square image, in the order of `PARTS`.

    The modules keep their modes, and no random number is drawn. A map that no module returned unchanged, such as one
    reshaped from windows of tokens, has no tap name and is left out.
    """
    returned: list[tuple[str, Tensor]] = []
    passed_on: dict[str, list[Tensor]] = {}

    def keep(name: str, _: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            returned.append((name, output))
        if name in PARTS:
            passed_on[name] = list(_maps_in(output))

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules() if name]
    like = next(network.parameters())
    parts = [name for name, _ in network.named_modules() if name in PARTS]
    try:
        # No further than the maps: the queries that a decoder selects may be more than a small image has cells.
        with eval_mode(network), torch.enable_grad(), stopping_after(network, parts):
            network(pixel_values=like.new_zeros(1, 3, side, side))
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor] = {}
    for part in PARTS:
        # The outermost module that returns a tensor is the last to return it. Modules after the part may return it too.
        names = {id(tensor): name for name, tensor in returned if name.startswith(f"{part}.")}
        for index, tensor in enumerate(passed_on.get(part, [])):
            name = f"{part}:{index}" if part == TOKEN_MAPS else names.get(id(tensor))
            if name is not None:
                found[name] = tensor
    return found


def _maps_in(output: Any) -> Iterator[Tensor]:
    """The (batch, channels, height, width) tensors in nested mappings and sequences, in order."""
    if isinstance(output, Tensor):
        if output.ndim == 4:
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _maps_in(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _maps_in(value)
