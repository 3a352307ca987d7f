"""Vision models of transformers as sources of features: their patch tokens, as maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import eyas
from eyas.nn.taps import tap_features
from eyas.types import EyasError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
MODELS = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(patch_size=14, image_size=56, **SMALL)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(patch_size=14, image_size=56, num_register_tokens=3, **SMALL)
    ),
    "dinov3": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(patch_size=16, num_register_tokens=4, **SMALL)
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(patch_size=16, image_size=64, **SMALL)),
    "cnn": lambda: transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1] * 4)),
}
BEFORE = {"dinov2": 1, "registers": 4, "dinov3": 5, "vit": 1}
"""CLS and register tokens."""


def saved(folder: Path, kind: str, *, processor: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = MODELS[kind]().eval()
    model.save_pretrained(folder)  # type: ignore[operator]
    if processor:
        transformers.BitImageProcessor(image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_the_map_is_the_models_patch_tokens(tmp_path: Path, kind: str) -> None:
    model, source = saved(tmp_path, kind), eyas.load(f"features/16:transformers:{tmp_path}")
    (level,) = source.levels.values()
    assert (level.stride, level.channels) == (16, 32)
    images, cell = torch.rand(2, 3, 48, 80), {"dinov2": 14, "registers": 14, "cnn": 32}.get(kind, 16)
    (found,) = tap_features(source, list(source.levels), images).values()
    seen = nn.functional.interpolate(images, (3 * cell, 5 * cell), mode="bilinear", antialias=True)
    options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    with torch.no_grad():
        state = model((seen - 0.4) / 0.2, **options).last_hidden_state
    expected = state if kind == "cnn" else state[:, BEFORE[kind] :].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_does_not_say_how_it_normalises_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "dinov2", processor=False)
    with pytest.raises(EyasError, match="has no preprocessor_config"):
        eyas.load(f"features:transformers:{tmp_path}")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "dinov2")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for name, changed in (("encoder.layer.1.norm1.weight", None), ("layernorm.weight", torch.ones(8))):
        kept = {key: value for key, value in tensors.items() if key != name}
        save_file(kept if changed is None else {**kept, name: changed}, file, metadata={"format": "pt"})
        with pytest.raises(EyasError, match=r"another architecture.*norm1|check its files"):
            eyas.load(f"features:transformers:{tmp_path}")
