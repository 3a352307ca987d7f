"""The last map of a vision model of transformers, such as DINOv2 or DINOv3, as a source of features."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyas.detectors.features import FeatureSource
from eyas.detectors.transformers.deployed import pixel_statistics
from eyas.detectors.transformers.loading import Saved, library, read_pretrained, reading
from eyas.nn.eval_mode import eval_mode
from eyas.tools.tensor_files import check_weights
from eyas.types import EyasError

PROBED = 16
"""Patches of a side of the blank image that shows the stride of a model's map."""


class LastHiddenState(nn.Module):
    """Normalised images to the last hidden state of a vision model, as a map.

    Args:
        model: returns a map (batch, channels, rows, columns), or tokens (batch, tokens, channels) of which the last are
            the patches, row by row: CLS and register tokens come before them.
        patch: pixels of a side of a patch.
    """

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.model, self.patch = model, patch
        # DINOv2 interpolates its positions for other sizes by itself; ViT has to be asked.
        asked = "interpolate_pos_encoding"
        self._options = {asked: True} if asked in inspect.signature(model.forward).parameters else {}

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, channels, rows, columns)."""
        state: Tensor = self.model(pixel_values=images, **self._options).last_hidden_state
        if state.ndim == 4:
            return state
        rows, columns = (side // self.patch for side in images.shape[-2:])
        if not 0 < rows * columns <= state.shape[1]:
            raise EyasError(
                f"{type(self.model).__name__} returns {state.shape[1]} tokens for {rows} x {columns} patches of "
                f"{self.patch} pixels; bring it in through a function of your own that returns an eyas.FeatureSource"
            )
        patches = state[:, state.shape[1] - rows * columns :]
        return patches.transpose(1, 2).reshape(len(images), -1, rows, columns)


def open_features(model: str, stride: int, weights: Path | None = None) -> FeatureSource:
    """The last map of a vision model.

    Args:
        model: hub id, or a folder of ``save_pretrained`` with the image processor's configuration, which has the
            normalisation.
        stride: pixels of the student's image to a cell of the map.
        weights: always None, since the source has them.

    Raises:
        EyasError: transformers is not installed, nothing is found there, or the model gives no map.
    """
    name = f"features:transformers:{model}"
    if weights is not None:
        raise EyasError(f"{name}@{weights}: a model of transformers has its weights in its folder; leave @... out")
    saved = Saved(model)
    with reading(name):
        mean, std = _pixels(name, saved)
        network, report = read_pretrained(model, library().AutoModel, dtype=torch.float32, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]  # no map passes through it
    if missing:
        raise EyasError(f"{name}: weights of another architecture; {len(missing)} missing: {', '.join(missing[:4])}")
    check_weights(name, network.state_dict())
    with reading(name):
        patch = int(getattr(network.config, "patch_size", PROBED))
        body, side = LastHiddenState(network, patch), PROBED * patch
        with eval_mode(body), torch.no_grad():
            cell = side // body(torch.zeros(1, 3, side, side)).shape[-1]
    return FeatureSource(body, cell=cell, stride=stride, mean=mean, std=std)


def _pixels(name: str, saved: Saved) -> tuple[Any, Any]:
    """Mean and standard deviation of the model's normalisation. Raises EyasError where its files do not say."""
    processor = saved.processor()
    if processor is None:
        raise EyasError(
            f"{name}: it has no preprocessor_config.json, which says how images are normalised; save its image "
            "processor there too, or make an eyas.FeatureSource in a function of your own"
        )
    return pixel_statistics(processor)
