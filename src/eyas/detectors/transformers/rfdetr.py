"""Checkpoints of the rfdetr package, ``.pth`` files, as RF-DETRs of transformers. The package itself is not needed.

Both libraries have the same network under other names, and transformers renames the tensors while it loads them. The
head of the package has more outputs than there are classes: a last one for the background and, for COCO, one for each
unused category id. They are trained as negative alone, and are left out here.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from eyas.tools.tensor_files import check_weights, read_pt
from eyas.types import EyasError

VIT = "backbone.0.encoder.encoder."
PATCHES = f"{VIT}embeddings.patch_embeddings.projection.weight"
DECODER = "transformer.decoder.layers.0."
CLASS_HEADS = re.compile(r"(class_embed|transformer\.enc_out_class_embed\.\d+)\.(weight|bias)")
COCO_IDS = 91
"""Outputs of a head of COCO's category ids."""
HEAD_WIDTH = 64
"""Channels of an attention head of every DINOv2."""
HEADS_AND_POINTS = {"sa_nheads": 8, "ca_nheads": 16, "dec_n_points": 2}
DEFAULTS: Mapping[int, Mapping[str, Any]] = {
    14: {**HEADS_AND_POINTS, "num_windows": 4, "out_feature_indexes": [2, 5, 8, 11], "resolution": 560},
    16: {**HEADS_AND_POINTS, "num_windows": 2, "out_feature_indexes": [3, 6, 9, 12]},
}
"""Patch size -> what neither the tensors nor, in some checkpoints, the arguments tell: RF-DETR Base, Nano to Large."""
OTHERS: Mapping[str, str] = {
    "segmentation_head.": "a segmentation model",
    "keypoint_embed.": "a keypoint model",
    "backbone.0.encoder.base_model.": "trained with LoRA; merge it, with backbone_lora=False, and save it again",
    "backbone.0.projector.stages.1.": "a model of several feature levels, which transformers does not have",
    f"{VIT}embeddings.register_tokens": "a DINOv2 with registers, which transformers' RF-DETR does not have",
    "transformer.decoder.bbox_embed.": "a decoder that refines its boxes in each layer, which transformers does not",
}
"""Prefix of a tensor's name -> what the checkpoint is of, if it has one."""


class RfDetrCheckpoint:
    """One checkpoint, read; satisfies `eyas.detectors.transformers.loading.Source`.

    Raises:
        EyasError: the file is damaged, holds other Python objects than tensors, plain values and the argument holders
            ``argparse.Namespace`` and ``types.SimpleNamespace``, or is of a model that transformers does not have.
    """

    def __init__(self, path: Path) -> None:
        loaded = read_pt(path, allowed=(Namespace, SimpleNamespace))
        tensors = loaded.get("model") if isinstance(loaded, Mapping) else None
        if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise EyasError(f"{path}: holds no state dict under 'model', as checkpoints of rfdetr do")
        check_weights(str(path), tensors)
        for prefix, what in OTHERS.items():
            if any(name.startswith(prefix) for name in tensors):
                raise EyasError(f"{path}: {what}; Eyas opens RF-DETR's detectors, Nano to Large and Base")
        self.path = path
        args = {**_values(loaded.get("args")), **_values(loaded.get("model_config"))}
        try:
            known = {**DEFAULTS.get(tensors[PATCHES].shape[-1], {}), **args}
            self.architecture = _architecture(tensors, known)
            outputs = len(tensors["class_embed.bias"])
        except KeyError as error:
            raise EyasError(f"{path}: not a detector of rfdetr, for it has no {error.args[0]}") from error
        self.side = int(known.get("resolution", self.architecture["backbone_config"]["image_size"]))
        labels = _labels(path, outputs, args.get("class_names"))
        self.classes, rows = tuple(labels.values()), list(labels)
        self.tensors = {
            name: tensor[rows] if CLASS_HEADS.fullmatch(name) else tensor
            for name, tensor in tensors.items()
            if name != "_kp_active_mask"  # empty in a detector
        }

    def config(self, overrides: Mapping[str, Any]) -> Any:
        from transformers import RfDetrConfig

        config = RfDetrConfig(**{**self.architecture, **overrides})
        config.id2label = dict(enumerate(self.classes))
        config.label2id = {name: label for label, name in config.id2label.items()}
        return config

    def model(self, config: Any) -> Any:
        from transformers import RfDetrForObjectDetection

        if config.model_type != "rf_detr":
            raise EyasError(f"{self.path}: weights of an RF-DETR, and the configuration is of a {config.model_type}")
        # No name, so that nothing is downloaded: the weights are the tensors.
        return RfDetrForObjectDetection.from_pretrained(  # nosec B615
            None,
            config=config,
            state_dict=dict(self.tensors),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )

    def processor(self) -> Any:
        from transformers import RfDetrImageProcessor

        return RfDetrImageProcessor(size={"height": self.side, "width": self.side})


def _values(held: Any) -> Mapping[str, Any]:
    """What an argument holder or a mapping holds; nothing for anything else."""
    if isinstance(held, Namespace | SimpleNamespace):
        return vars(held)
    return held if isinstance(held, Mapping) else {}


def _architecture(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an RfDetrConfig: from shapes where they tell, else from what is known of the checkpoint.

    Raises:
        KeyError: a tensor or a value is missing.
    """
    width, _, patch, _ = tensors[PATCHES].shape
    groups = _count(tensors, "transformer.enc_output.{}.weight")
    cells = tensors[f"{VIT}embeddings.position_embeddings"].shape[1] - 1
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": width,
        "num_hidden_layers": _count(tensors, VIT + "encoder.layer.{}.norm1.weight"),
        "num_attention_heads": width // HEAD_WIDTH,
        "mlp_ratio": len(tensors[f"{VIT}encoder.layer.0.mlp.fc1.bias"]) // width,
        "patch_size": patch,
        "image_size": round(cells**0.5) * patch,
        "num_windows": known["num_windows"],
        "out_indices": list(known["out_feature_indexes"]),
        "use_mask_token": f"{VIT}embeddings.mask_token" in tensors,
    }
    return {
        "backbone_config": backbone,
        "d_model": tensors["query_feat.weight"].shape[1],
        "num_queries": len(tensors["query_feat.weight"]) // groups,
        "group_detr": groups,
        "c2f_num_blocks": _count(tensors, "backbone.0.projector.stages.0.0.m.{}.cv1.conv.weight"),
        "decoder_layers": _count(tensors, "transformer.decoder.layers.{}.norm1.weight"),
        "decoder_ffn_dim": len(tensors[f"{DECODER}linear1.bias"]),
        "decoder_self_attention_heads": known["sa_nheads"],
        "decoder_cross_attention_heads": known["ca_nheads"],
        "decoder_n_points": known["dec_n_points"],
        "dropout": float(known.get("dropout", 0.0)),
        "layer_norm_eps": 1e-6,  # of the projector, in the package
    }


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many names a pattern gives with 0, 1, ... in its place."""
    count = 0
    while pattern.format(count) in tensors:
        count += 1
    if not count:
        raise KeyError(pattern.format(0))
    return count


def _labels(path: Path, outputs: int, names: Sequence[str] | None) -> dict[int, str]:
    """Output of the head -> class. Nameless classes get the names that transformers gives such.

    Raises:
        EyasError: the names are neither one fewer than the outputs nor those of COCO.
    """
    if names and len(names) == outputs - 1:
        return dict(enumerate(map(str, names)))
    coco = _coco() if outputs == COCO_IDS else {}
    if coco and len(names or coco) == len(coco):
        return dict(zip(coco, map(str, names or coco.values()), strict=True))
    if not names:
        return {label: f"LABEL_{label}" for label in range(outputs - 1)}
    raise EyasError(
        f"{path}: its head has {outputs} outputs, the last of them the background, and its args name {len(names)} "
        "classes; which output is of which class is unknown: correct class_names in its args"
    )


def _coco() -> dict[int, str]:
    """COCO's category ids and names."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    categories = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {label: name for label, name in enumerate(categories) if name not in ("__background__", "N/A")}
