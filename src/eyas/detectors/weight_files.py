"""Weights from a file into a network, or an error that lists what does not fit.

A file is ``.safetensors``, or ``.pt``/``.pth`` read without pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eyas.tools.tensor_files import check_weights, read_pt, read_safetensors
from eyas.types import EyasError

COUNTER = "num_batches_tracked"
"""A BatchNorm's counter, which old weights lack and nothing here reads."""
SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, those of a list by position, and their source: a name or a file, for messages."""

    source: str
    tensors: Mapping[str, Tensor]


def read_weights_file(path: Path) -> Weights:
    """The tensors of a file by name; those of a list by position.

    A state dict may lie under "state_dict" or "model", as in a checkpoint.

    Raises:
        EyasError: the file is missing, damaged or of another kind, holds code, or has NaN or infinite weights.
    """
    if not path.is_file():
        raise EyasError(f"{path}: no such weights file")
    loaded: Any = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): tensor for index, tensor in enumerate(loaded)}
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise EyasError(f"{path}: holds no state dict and no list of tensors")
    check_weights(str(path), loaded)
    return Weights(str(path), dict(loaded))


def load_detector(network: nn.Module, weights: Weights, predictors: Sequence[str] = ()) -> None:
    """Load a detector's state dict.

    Args:
        network: the library's module.
        weights: of the same architecture.
        predictors: prefixes of the tensors whose shapes depend on the number of classes. Where those differ, the
            network keeps its own and a warning lists them.

    Raises:
        EyasError: weights of another architecture.
    """
    own = network.state_dict()
    others = [name for name, tensor in weights.tensors.items() if name in own and own[name].shape != tensor.shape]
    fresh = [name for name in others if name.startswith(tuple(predictors))]
    given = {name: tensor for name, tensor in weights.tensors.items() if name not in fresh}
    misshaped = [name for name in others if name in given]
    refuse_mismatch(weights.source, {name: own[name] for name in misshaped}, {name: given[name] for name in misshaped})
    # Some modules translate older names of their tensors while loading, so only they can tell what is missing.
    result = network.load_state_dict(given, strict=False)
    missing = [name for name in result.missing_keys if name not in fresh and not name.endswith(COUNTER)]
    if missing or result.unexpected_keys:
        raise EyasError(_mismatch(weights.source, missing, result.unexpected_keys, []))
    if fresh:
        warnings.warn(
            f"{weights.source} is for another number of classes; these tensors start anew: {', '.join(fresh)}",
            stacklevel=2,
        )


def refuse_mismatch(source: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises EyasError, with some of the names, unless both have the same names and shapes."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshaped = [
        f"{name} {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if missing or unexpected or misshaped:
        raise EyasError(_mismatch(source, missing, unexpected, misshaped))


def _mismatch(source: str, missing: list[str], unexpected: list[str], misshaped: list[str]) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    lines = [f"\n  {len(names)} {kind}: {', '.join(names[:4])}" for kind, names in kinds.items() if names]
    return f"{source}: weights of another architecture.{''.join(lines)}"
