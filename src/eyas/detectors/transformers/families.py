"""The detectors of transformers that Eyas takes, and what their configurations do not state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

DENOISING = "model.denoising_class_embed.weight"
"""Embeds noisy boxes as queries; a batch without boxes has none."""
DINOV3 = "dinov3_vit"
VIT = "model.backbone.backbone"
"""The backbone of detectors whose image network is a transformer with a projector behind it."""


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


@dataclass(frozen=True)
class Family:
    """The properties of one kind of detector that its config does not state.

    Attributes:
        processor: the library's image processor, for a model without its own.
        divisor: config -> both sides of the input must be multiples of it.
        tokens: config -> the tokens to reshape to maps; None if there are none.
        idle: config -> how the names of parameters begin that no loss depends on, in some batches or in all.
        proposals: config -> the output field with the boxes that the queries start from, if scores of the encoder
            select them; else None.
        ordered, strict: see `eyas.detectors.deployed.Deployed`.
        backbone: config -> name of the image network.
        processing: config -> arguments of ``processor``.
    """

    processor: str
    divisor: Callable[[Any], int] = lambda config: 1
    tokens: Callable[[Any], TokenSource] | None = None
    idle: Callable[[Any], Sequence[str]] = lambda config: ()
    proposals: Callable[[Any], str | None] = lambda config: None
    ordered: bool = False
    strict: bool = False
    backbone: Callable[[Any], str] = lambda config: "model.backbone"
    processing: Callable[[Any], Mapping[str, Any]] = lambda config: {}


def _last_stride(config: Any) -> int:
    return int(max(config.feat_strides))


def _last_stride_of_deimv2(config: Any) -> int:
    # The lite encoder makes one map more than it is given, of twice the stride.
    return max(_last_stride(config), int(2 * config.feat_strides[0]) if config.encoder_type == "lite" else 1)


def _windows(config: Any) -> int:
    backbone = config.backbone_config
    return int(backbone.patch_size * getattr(backbone, "num_windows_side", backbone.num_windows))


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


def _has_dinov3(config: Any) -> bool:
    return bool(config.backbone_config.model_type == DINOV3)


def _in_conv_encoder(config: Any) -> str:
    return f"model.conv_encoder.{'backbone' if _has_dinov3(config) else 'model'}"


def _unread(vit: Any, layers: str) -> list[str]:
    """The layers of a backbone behind the last whose tokens are read."""
    return [f"{layers}.{index}." for index in range(max(vit.out_indices), vit.num_hidden_layers)]


def _idle_of_lw_detr(config: Any) -> Sequence[str]:
    return _unread(config.backbone_config, f"{VIT}.encoder.layer")


def _idle_of_rf_detr(config: Any) -> Sequence[str]:
    # The mask token is used only in DINO's own training.
    return [f"{VIT}.embeddings.mask_token", *_idle_of_lw_detr(config)]


def _idle_of_deimv2(config: Any) -> Sequence[str]:
    if not _has_dinov3(config):
        return [DENOISING]
    vit = _in_conv_encoder(config)
    unread = _unread(config.backbone_config, f"{vit}.model.layer")
    return [DENOISING, f"{vit}.embeddings.mask_token", f"{vit}.norm.", *unread]


RT_DETR = Family(
    "RTDetrImageProcessor",
    _last_stride,
    idle=lambda config: (DENOISING,),
    proposals=lambda config: "enc_topk_bboxes",
    strict=True,
)
"""RT-DETR and its successors."""
LW_DETR = Family(
    "DeformableDetrImageProcessor",
    _windows,
    idle=_idle_of_lw_detr,
    proposals=_of_two_stages,
    ordered=True,
    backbone=lambda config: VIT,
)
FAMILIES: Mapping[str, Family] = {
    "DetrForObjectDetection": Family("DetrImageProcessor", tokens=_encoded("model.input_projection")),
    "TableTransformerForObjectDetection": Family("DetrImageProcessor", tokens=_encoded("model.input_projection")),
    "ConditionalDetrForObjectDetection": Family(
        "ConditionalDetrImageProcessor", tokens=_encoded("model.input_projection")
    ),
    "DabDetrForObjectDetection": Family("ConditionalDetrImageProcessor", tokens=_encoded("model.input_projection")),
    "DeformableDetrForObjectDetection": Family(
        "DeformableDetrImageProcessor", tokens=_encoded("model.input_proj"), proposals=_of_two_stages
    ),
    "RTDetrForObjectDetection": RT_DETR,
    "RTDetrV2ForObjectDetection": RT_DETR,
    "DFineForObjectDetection": RT_DETR,
    "Deimv2ForObjectDetection": replace(
        RT_DETR,
        divisor=_last_stride_of_deimv2,
        idle=_idle_of_deimv2,
        backbone=_in_conv_encoder,
        processing=lambda config: {"do_normalize": _has_dinov3(config)},  # as its published models
    ),
    "LwDetrForObjectDetection": LW_DETR,
    "RfDetrForObjectDetection": replace(LW_DETR, processor="RfDetrImageProcessor", idle=_idle_of_rf_detr),
    "YolosForObjectDetection": Family(
        "YolosImageProcessor", _patch, tokens=_before_last_layer, backbone=lambda config: "vit"
    ),
}
"""By the class of the library's model."""
