"""The smallest detectors of transformers that still are of their kind, with random weights and nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from torch import nn
from transformers import (
    ConditionalDetrConfig,
    DabDetrConfig,
    DeformableDetrConfig,
    Deimv2Config,
    DetrConfig,
    DFineConfig,
    LwDetrConfig,
    PreTrainedConfig,
    RfDetrConfig,
    RTDetrConfig,
    RTDetrV2Config,
    TableTransformerConfig,
    YolosConfig,
)

CLASSES = ("cat", "dog", "owl")
WIDTHS = [8, 16, 24, 32]
RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 8,
    "hidden_sizes": WIDTHS,
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_indices": [2, 3, 4],
}
HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "stem_channels": [3, 8, 8],
    "hidden_sizes": WIDTHS,
    "depths": [1, 1, 1, 1],
    "stage_in_channels": [8, 8, 16, 24],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": WIDTHS,
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "out_indices": [2, 3, 4],
}
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "num_queries": 12}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
HYBRID = {
    **DECODER,
    **HEADS,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_in_channels": WIDTHS[1:],
    "decoder_in_channels": [32, 32, 32],
    "num_denoising": 4,
    "freeze_backbone_batch_norms": False,
}
DETR = {**DECODER, **HEADS, "encoder_layers": 1, "encoder_ffn_dim": 32, "dropout": 0.0, "auxiliary_loss": True}
GROUPED = {
    **DECODER,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "group_detr": 2,
    "dropout": 0.0,
}
LITE = {
    "encoder_type": "lite",
    "feat_strides": [16],
    "encoder_in_channels": WIDTHS[2:3],
    "decoder_in_channels": [32, 32],
    "num_feature_levels": 2,
    "use_gateway": False,
    "share_bbox_head": True,
    "backbone_config": {
        **{name: value[:3] if isinstance(value, list) else value for name, value in HGNET.items()},
        "stage_downsample": [False, True, True],
        "stage_light_block": [False, False, True],
        "stage_kernel_size": [3, 3, 3],
        "out_indices": [3],
    },
}
"""As the smallest models of DEIMv2, whose backbone has three stages."""
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16}


def _config(kind: type[PreTrainedConfig], options: dict[str, Any], **more: Any) -> PreTrainedConfig:
    config = kind(**options, **more)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: label for label, name in enumerate(CLASSES)}
    return config


def class_of(family: str) -> Any:
    """The library's class of a key of `CONFIGS`."""
    return getattr(transformers, family.partition(" ")[0])


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "DetrForObjectDetection": lambda: _config(DetrConfig, DETR, backbone_config=HGNET),
    "DeformableDetrForObjectDetection": lambda: _config(DeformableDetrConfig, DETR, backbone_config=HGNET),
    "TableTransformerForObjectDetection": lambda: _config(TableTransformerConfig, DETR, backbone_config=HGNET),
    "ConditionalDetrForObjectDetection": lambda: _config(ConditionalDetrConfig, DETR, backbone_config=HGNET),
    "DabDetrForObjectDetection": lambda: _config(DabDetrConfig, DETR, hidden_size=32, backbone_config=HGNET),
    "RTDetrForObjectDetection": lambda: _config(RTDetrConfig, HYBRID, backbone_config=RESNET),
    "RTDetrV2ForObjectDetection": lambda: _config(RTDetrV2Config, HYBRID, backbone_config=RESNET),
    "DFineForObjectDetection": lambda: _config(DFineConfig, HYBRID, backbone_config=HGNET),
    "Deimv2ForObjectDetection": lambda: _config(Deimv2Config, HYBRID, backbone_config=HGNET),
    "Deimv2ForObjectDetection lite": lambda: _config(Deimv2Config, {**HYBRID, **LITE}),
    "Deimv2ForObjectDetection DINOv3": lambda: _config(
        Deimv2Config,
        HYBRID,
        encoder_has_trailing_conv=False,
        spatial_tuning_adapter_inplanes=8,
        backbone_config={
            "model_type": "dinov3_vit",
            **VIT,
            "num_hidden_layers": 4,
            "intermediate_size": 32,
            "image_size": 64,
            "num_register_tokens": 2,
            "out_indices": [1, 2, 3],
        },
    ),
    "LwDetrForObjectDetection": lambda: _config(
        LwDetrConfig,
        GROUPED,
        projector_scale_factors=[2.0, 0.5],
        backbone_config={
            "model_type": "lw_detr_vit",
            **VIT,
            "num_hidden_layers": 3,
            "image_size": 64,
            "pretrain_image_size": 64,
            "num_windows": 4,
            "out_indices": [1, 2],
        },
    ),
    "RfDetrForObjectDetection": lambda: _config(
        RfDetrConfig,
        GROUPED,
        backbone_config={
            "model_type": "rf_detr_dinov2",
            **VIT,
            "image_size": 64,
            "num_windows": 2,
            "out_indices": [1, 2],
        },
    ),
    "YolosForObjectDetection": lambda: _config(
        YolosConfig, {**VIT, "intermediate_size": 32, "image_size": [64, 96], "num_detection_tokens": 12}
    ),
}
"""By the library's class, and the variant where there are several."""


def random_model(family: str) -> Any:
    """With weights that spread scores and boxes; the library's own start from nearly equal ones."""
    model = class_of(family)(CONFIGS[family]())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model
