"""The levels of a transformers detector: the modules that return its maps, and its tokens reshaped to maps.

No backbone's names appear here. A forward pass shows which module returned the tensors that the backbone and the
encoder pass on, so backbones of transformers and of timm are found alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode
from eyas.ops.anchors import StrideGrid
from eyas.types import EyasError, Level, Size

TOKEN_MAPS = "token_maps"  # nosec B105
"""Name of the `TokenMaps` inside a network."""
PARTS = (TOKEN_MAPS, "model.encoder", "model.backbone")
"""The modules that pass maps on, last in the network first: of two maps of one stride, the first is paired."""
DENOISING = ("model.denoising_class_embed.weight",)
"""Embeds noisy boxes as queries; a batch without boxes has none."""
MASK_TOKEN = ("model.backbone.backbone.embeddings.mask_token",)
"""Used only in DINOv2's own training."""
PROBE_SIDE = 128
"""Pixels; the least side of the probe image."""


@dataclass(frozen=True)
class TokenSource:
    """Where a network has tokens that can be reshaped to maps.

    Attributes:
        module: the module whose output, or input, has the tokens.
        size: the module whose output has the size of the map, or a list of such modules, in the order of the tokens.
        of_input: the tokens are the first input of ``module``, not the last hidden state of its output.
        before: number of leading tokens that belong to no cell.
    """

    module: str
    size: str
    of_input: bool = False
    before: int = 0


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
        self.sizes[index] = (output.shape[-2], output.shape[-1])

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


@dataclass(frozen=True)
class Family:
    """The properties of one kind of detector that its config does not state.

    Attributes:
        processor: the library's image processor, for a model without its own.
        divisor: config -> both sides of the input must be multiples of it.
        tokens: config -> the tokens to reshape to maps; None if there are none.
        idle: parameters that no loss depends on, in some batches or in all.
        proposals: config -> the output field with the boxes that the queries start from, if scores of the encoder
            select them; else None.
        ordered, strict: see `eyas.detectors.deployed.Deployed`.
        least: config -> least side of an image, pixels, that gives a cell to every query.
        backbone: name of the image network.
    """

    processor: str
    divisor: Callable[[Any], int] = lambda config: 1
    tokens: Callable[[Any], TokenSource] | None = None
    idle: Sequence[str] = ()
    proposals: Callable[[Any], str | None] = lambda config: None
    ordered: bool = False
    strict: bool = False
    least: Callable[[Any], int] = lambda config: 1
    backbone: str = "model.backbone"


def _last_stride(config: Any) -> int:
    return int(max(config.feat_strides))


def _windows(config: Any) -> int:
    backbone = config.backbone_config
    return int(backbone.patch_size * getattr(backbone, "num_windows_side", backbone.num_windows))


def _enough_cells(config: Any) -> int:
    finest = max(getattr(config, "projector_scale_factors", None) or (1.0,))
    pixels: int = math.ceil(config.backbone_config.patch_size / finest)
    return math.ceil(math.sqrt(config.num_queries)) * pixels


def _patch(config: Any) -> int:
    return int(config.patch_size)


def _encoded(size: str) -> Callable[[Any], TokenSource]:
    return lambda config: TokenSource("model.encoder", size)


def _before_last_layer(config: Any) -> TokenSource:
    # The last layer's image tokens reach no loss: YOLOS reads only its detection tokens. So take the layer's input.
    last = f"vit.encoder.layer.{config.num_hidden_layers - 1}"
    return TokenSource(last, "vit.embeddings.patch_embeddings.projection", of_input=True, before=1)


def _of_two_stages(config: Any) -> str | None:
    return "init_reference_points" if getattr(config, "two_stage", True) else None


RT_DETR = Family(
    "RTDetrImageProcessor", _last_stride, idle=DENOISING, proposals=lambda config: "enc_topk_bboxes", strict=True
)
"""RT-DETR and its successors."""
VIT = "model.backbone.backbone"
"""The backbone of detectors whose image network is a transformer with a projector behind it."""
FAMILIES: Mapping[str, Family] = {
    "DetrForObjectDetection": Family("DetrImageProcessor", tokens=_encoded("model.input_projection")),
    "DeformableDetrForObjectDetection": Family(
        "DeformableDetrImageProcessor", tokens=_encoded("model.input_proj"), proposals=_of_two_stages
    ),
    "RTDetrForObjectDetection": RT_DETR,
    "RTDetrV2ForObjectDetection": RT_DETR,
    "DFineForObjectDetection": RT_DETR,
    "LwDetrForObjectDetection": Family(
        "DeformableDetrImageProcessor",
        _windows,
        proposals=_of_two_stages,
        ordered=True,
        least=_enough_cells,
        backbone=VIT,
    ),
    "RfDetrForObjectDetection": Family(
        "RfDetrImageProcessor",
        _windows,
        idle=MASK_TOKEN,
        proposals=_of_two_stages,
        ordered=True,
        least=_enough_cells,
        backbone=VIT,
    ),
    "YolosForObjectDetection": Family("YolosImageProcessor", _patch, tokens=_before_last_layer, backbone="vit"),
}
"""By the class of the library's model."""


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


def derive_levels(
    network: nn.Module, divisor: int, least: int, scale: float, ratios: Sequence[float]
) -> dict[str, Level]:
    """The levels of a detector, with its token maps, from one forward pass: strides, channels and tap names.

    Leaves out maps that depend on no trainable parameter, because nothing can learn from them, unless the whole network
    is frozen, as in a teacher.

    Args:
        network: the detector.
        divisor: the sides of its input must be multiples of it.
        least: least side of its input, pixels.
        scale: see `StrideGrid`.
        ratios: see `StrideGrid`.

    Raises:
        EyasError: no module returns a map.
    """
    side = -(-max(PROBE_SIDE, least) // divisor) * divisor
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
    try:
        with eval_mode(network), torch.enable_grad():
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
