"""The levels of a transformers detector: the modules that return its maps, and its tokens made into maps.

Nothing here goes by the names of one backbone: a forward pass shows which module returned the very tensors that the
backbone and the encoder hand on, so backbones of transformers and of timm are found alike.
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
from eyas.ops.anchors import AnchorGrid, ratio_cell_anchors
from eyas.types import EyasError, Level, Size

TOKEN_MAPS = "token_maps"  # nosec B105
"""Name of the `TokenMaps` in a network that has one."""
PARTS = (TOKEN_MAPS, "model.encoder", "model.backbone")
"""The modules that hand maps on, the later in the network first: of two maps of one stride, the first is paired."""
DENOISING = ("model.denoising_class_embed.weight",)
"""Queries made of noisy boxes, of which a batch without boxes has none."""
MASK_TOKEN = ("model.backbone.backbone.embeddings.mask_token",)
"""Of DINOv2's own training."""
PROBE_SIDE = 128
"""Pixels that a side of the probe image has at least."""


@dataclass(frozen=True)
class TokenSource:
    """Where tokens can be looked at as maps.

    Attributes:
        module: the module whose output holds the tokens, or whose input does.
        sizes: modules, or lists of modules, whose outputs have the sizes of the maps, in the order of the tokens.
        of_input: the tokens are the first input of ``module``, not the last hidden state of its output.
        before: tokens in front that belong to no cell.
    """

    module: str
    sizes: Sequence[str]
    of_input: bool = False
    before: int = 0


class TokenMaps(nn.Module):
    """An identity that tokens pass through as maps, where taps can see them.

    A transformer's tokens are (batch, tokens, channels), and no module of the library returns them as a map. Hooks send
    them through here on their way: what comes next gets the very same numbers, and the loss's gradient passes through
    the maps. It has no parameters, so the library's state dict is as it was.

    Args:
        count: how many maps the tokens make up.
        before: tokens in front that belong to no cell.
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
        """(batch, tokens, channels), the same values."""
        counts = [self.before, *(height * width for height, width in self.sizes)]
        front, *cells, behind = tokens.split([*counts, tokens.shape[1] - sum(counts)], dim=1)
        maps = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(cells, self.sizes, strict=True)]
        return torch.cat((front, *(passed.flatten(2).transpose(1, 2) for passed in self(maps)), behind), dim=1)


@dataclass(frozen=True)
class StrideGrid:
    """Anchors for a level of a detector that has none: boxes of some shapes, centred in the cells.

    Where the stride divides the image, `eyas.ops.anchors.default_grid` gives the same.

    Attributes:
        stride: pixels per cell.
        scale: the side of the square one, in strides.
        ratios: height over width.
    """

    stride: int
    scale: float = 4.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __call__(self, size: Size, image_size: Size) -> AnchorGrid:
        shapes, step = ratio_cell_anchors(self.scale * self.stride, self.ratios), float(self.stride)
        return AnchorGrid(shapes, size, (step, step), (step / 2, step / 2))


@dataclass(frozen=True)
class Family:
    """What the adapter has to know of a kind of detector.

    Attributes:
        processor: the library's image processor, for models that come without one.
        divisor: config -> what both sides of its input must be multiples of.
        tokens: config -> its tokens that are worth a map, where it has some.
        idle: parameters that no loss depends on in some batches or in any.
        proposals: config -> the field of its output with the boxes that the queries start from, where scores of the
            encoder choose them.
        ordered: see `eyas.detectors.deployed.Deployed`.
        strict: see `eyas.detectors.deployed.Deployed`.
        least: config -> pixels that both sides of an image need, so that there are cells for every query.
    """

    processor: str
    divisor: Callable[[Any], int] = lambda config: 1
    tokens: Callable[[Any], TokenSource] | None = None
    idle: Sequence[str] = ()
    proposals: Callable[[Any], str | None] = lambda config: None
    ordered: bool = False
    strict: bool = False
    least: Callable[[Any], int] = lambda config: 1


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


def _encoded(*sizes: str) -> Callable[[Any], TokenSource]:
    return lambda config: TokenSource("model.encoder", sizes)


def _before_last_layer(config: Any) -> TokenSource:
    # What YOLOS's last layer makes of the image's own tokens reaches no loss: only its detection tokens are read.
    last = f"vit.encoder.layer.{config.num_hidden_layers - 1}"
    return TokenSource(last, ("vit.embeddings.patch_embeddings.projection",), of_input=True, before=1)


def _of_two_stages(config: Any) -> str | None:
    return "init_reference_points" if getattr(config, "two_stage", True) else None


RT_DETR = Family(
    "RTDetrImageProcessor", _last_stride, idle=DENOISING, proposals=lambda config: "enc_topk_bboxes", strict=True
)
"""RT-DETR and its successors."""
FAMILIES: Mapping[str, Family] = {
    "DetrForObjectDetection": Family("DetrImageProcessor", tokens=_encoded("model.input_projection")),
    "DeformableDetrForObjectDetection": Family(
        "DeformableDetrImageProcessor", tokens=_encoded("model.input_proj"), proposals=_of_two_stages
    ),
    "RTDetrForObjectDetection": RT_DETR,
    "RTDetrV2ForObjectDetection": RT_DETR,
    "DFineForObjectDetection": RT_DETR,
    "LwDetrForObjectDetection": Family(
        "DeformableDetrImageProcessor", _windows, proposals=_of_two_stages, ordered=True, least=_enough_cells
    ),
    "RfDetrForObjectDetection": Family(
        "RfDetrImageProcessor",
        _windows,
        idle=MASK_TOKEN,
        proposals=_of_two_stages,
        ordered=True,
        least=_enough_cells,
    ),
    "YolosForObjectDetection": Family("YolosImageProcessor", _patch, tokens=_before_last_layer),
}
"""By the class of the library's model."""


def add_token_maps(network: nn.Module, source: TokenSource) -> None:
    """Put a `TokenMaps` into a network; one that is there already stays."""
    if hasattr(network, TOKEN_MAPS):
        return
    sized: list[nn.Module] = []
    for name in source.sizes:
        module = network.get_submodule(name)
        sized += list(module) if isinstance(module, nn.ModuleList) else [module]
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
    network: nn.Module, divisor: int, scale: float = 4.0, ratios: Sequence[float] = (0.5, 1.0, 2.0), least: int = 1
) -> dict[str, Level]:
    """The levels of a detector from one forward pass: strides, channels and tap names.

    A map that no trainable parameter lies before is left out, since nothing can learn from it; unless nothing at all is
    trainable, as in a teacher.

    Args:
        network: the detector, with its token maps.
        divisor: what the sides of its input must be multiples of.
        scale: see `StrideGrid`.
        ratios: see `StrideGrid`.
        least: pixels that they need.

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
    """Tap name -> map, of a blank square image, in the order of `PARTS`.

    The modes of the modules stay as they are and nothing is drawn. A map that no module returned as it was handed on,
    such as one reshaped from windows of tokens, has no tap name and is left out.
    """
    returned: list[tuple[str, Tensor]] = []
    handed_on: dict[str, list[Tensor]] = {}

    def keep(name: str, _: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            returned.append((name, output))
        if name in PARTS:
            handed_on[name] = list(_maps_in(output))

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
        # The outermost module that returns a tensor is the last to do so. Those behind the part may return it as well.
        names = {id(tensor): name for name, tensor in returned if name.startswith(f"{part}.")}
        for index, tensor in enumerate(handed_on.get(part, [])):
            name = f"{part}:{index}" if part == TOKEN_MAPS else names.get(id(tensor))
            if name is not None:
                found[name] = tensor
    return found


def _maps_in(output: Any) -> Iterator[Tensor]:
    """The (batch, channels, height, width) tensors in nested mappings and sequences, in their order."""
    if isinstance(output, Tensor):
        if output.ndim == 4:
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _maps_in(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _maps_in(value)
