"""A small RF-DETR as the rfdetr package saves it: names and shapes of the package's own, weights by formula."""

from __future__ import annotations

import zlib
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLASSES = ("cat", "dog", "owl")
VIT, WIDTH, GROUPS, QUERIES, PATCH, CELLS = 64, 32, 2, 6, 8, 4
ARCHITECTURE: dict[str, Any] = {
    "encoder": "dinov2_windowed_small",
    "hidden_dim": WIDTH,
    "patch_size": PATCH,
    "num_windows": 2,
    "dec_layers": 2,
    "sa_nheads": 4,
    "ca_nheads": 2,
    "dec_n_points": 3,
    "num_queries": QUERIES,
    "num_select": QUERIES,
    "group_detr": GROUPS,
    "projector_scale": ["P4"],
    "out_feature_indexes": [1, 2],
    "resolution": PATCH * CELLS,
    "positional_encoding_size": CELLS,
    "num_classes": len(CLASSES),
}
"""The arguments, by the package's names. The ViT has three layers, of which the last is not read, and mlp_ratio 1."""


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the package's model."""
    yield "refpoint_embed.weight", (QUERIES * GROUPS, 4)
    yield "query_feat.weight", (QUERIES * GROUPS, WIDTH)
    yield from _linear("class_embed", WIDTH, len(CLASSES) + 1)
    yield from _mlp("bbox_embed", (WIDTH, WIDTH, WIDTH, 4))
    for group in range(GROUPS):
        yield from _linear(f"transformer.enc_output.{group}", WIDTH, WIDTH)
        yield from _norm(f"transformer.enc_output_norm.{group}", WIDTH)
        yield from _mlp(f"transformer.enc_out_bbox_embed.{group}", (WIDTH, WIDTH, WIDTH, 4))
        yield from _linear(f"transformer.enc_out_class_embed.{group}", WIDTH, len(CLASSES) + 1)
    yield from _decoder("transformer.decoder")
    yield from _vit("backbone.0.encoder.encoder")
    yield from _projector("backbone.0.projector.stages.0")


def weights() -> dict[str, Tensor]:
    """By a formula, so that the package and a test have the same. The output of the background never fires."""
    tensors = {name: _random(name, shape) for name, shape in shapes()}
    for name, tensor in tensors.items():
        if "class_embed" in name and name.endswith("bias"):
            tensor[-1] = -1e4
        if "bbox_embed" in name and name.endswith("layers.2.bias"):
            tensor[2:] += 1  # larger boxes
    return tensors


def save(path: Path, *, args: Any = None, tensors: dict[str, Tensor] | None = None, **more: Any) -> Path:
    """A checkpoint; by default one of the package's earlier trainer, with an argparse Namespace."""
    held = Namespace(**ARCHITECTURE, class_names=list(CLASSES), output_dir="out") if args is None else args
    torch.save({"model": weights() if tensors is None else tensors, "args": held, "epoch": 1, **more}, path)
    return path


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) == 1:
        return 0.1 * numbers + (0.0 if name.endswith("bias") else 1.0)
    if name == "query_feat.weight":
        return numbers  # queries that differ
    return numbers * numbers[0].numel() ** -0.5


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _mlp(name: str, widths: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        yield from _linear(f"{name}.layers.{index}", inputs, outputs)


def _decoder(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index in range(ARCHITECTURE["dec_layers"]):
        layer, points = f"{name}.layers.{index}", ARCHITECTURE["ca_nheads"] * ARCHITECTURE["dec_n_points"]
        yield f"{layer}.self_attn.in_proj_weight", (3 * WIDTH, WIDTH)
        yield f"{layer}.self_attn.in_proj_bias", (3 * WIDTH,)
        yield from _linear(f"{layer}.self_attn.out_proj", WIDTH, WIDTH)
        yield from _linear(f"{layer}.cross_attn.sampling_offsets", WIDTH, 2 * points)
        yield from _linear(f"{layer}.cross_attn.attention_weights", WIDTH, points)
        yield from _linear(f"{layer}.cross_attn.value_proj", WIDTH, WIDTH)
        yield from _linear(f"{layer}.cross_attn.output_proj", WIDTH, WIDTH)
        yield from _linear(f"{layer}.linear1", WIDTH, 2048)
        yield from _linear(f"{layer}.linear2", 2048, WIDTH)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{layer}.{norm}", WIDTH)
    yield from _norm(f"{name}.norm", WIDTH)
    yield from _mlp(f"{name}.ref_point_head", (2 * WIDTH, WIDTH, WIDTH))


def _vit(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.embeddings.cls_token", (1, 1, VIT)
    yield f"{name}.embeddings.mask_token", (1, VIT)
    yield f"{name}.embeddings.position_embeddings", (1, CELLS**2 + 1, VIT)
    yield f"{name}.embeddings.patch_embeddings.projection.weight", (VIT, 3, PATCH, PATCH)
    yield f"{name}.embeddings.patch_embeddings.projection.bias", (VIT,)
    for index in range(3):
        layer = f"{name}.encoder.layer.{index}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            yield from _linear(f"{layer}.attention.{part}", VIT, VIT)
        for norm in ("norm1", "norm2"):
            yield from _norm(f"{layer}.{norm}", VIT)
        yield f"{layer}.layer_scale1.lambda1", (VIT,)
        yield f"{layer}.layer_scale2.lambda1", (VIT,)
        yield from _linear(f"{layer}.mlp.fc1", VIT, VIT)
        yield from _linear(f"{layer}.mlp.fc2", VIT, VIT)
    yield from _norm(f"{name}.layernorm", VIT)


def _projector(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = WIDTH // 2
    for part, outputs, inputs, side in (
        ("cv1", WIDTH, 2 * VIT, 1),
        ("cv2", WIDTH, 5 * hidden, 1),
        *((f"m.{index}.{conv}", hidden, hidden, 3) for index in range(3) for conv in ("cv1", "cv2")),
    ):
        yield f"{name}.0.{part}.conv.weight", (outputs, inputs, side, side)
        yield from _norm(f"{name}.0.{part}.bn", outputs)
    yield from _norm(f"{name}.1", WIDTH)
