"""Checkpoints: written whole or not at all, read without pickles.

A run folder holds ``model.json`` (how to build the detector), the weights of the detector alone as safetensors in its
own library's names, and ``last.pt``, the state a run resumes from. Where the detector's library has a format of its
own, the folder ``native`` of a finished run is in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from eyas.data.transforms import Resize
from eyas.detectors import build
from eyas.files import could_not_write, write_atomic, write_json
from eyas.types import Detector, EyasError

SPEC = "model.json"
RESUME = "last.pt"
BEST = "best.safetensors"
NATIVE = "native"
"""The folder of a run that the detector's own library reads."""


@runtime_checkable
class NativeExport(Protocol):
    """A detector whose library has a format of its own."""

    def export_native(self, folder: Path) -> None:
        """Write everything that the library needs to have the detector without Eyas."""
        ...


@dataclass(frozen=True)
class ModelSpec:
    """How a detector is built, and the input it was trained for.

    Attributes:
        model: name of the detector family.
        classes: class names in label order.
        backbone: name, where the family has a choice.
        options: keyword arguments of the family's builder.
        resize: size of its input.
        weights: file name of the weights beside this spec.
    """

    model: str
    classes: tuple[str, ...]
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    resize: Resize = field(default_factory=Resize)
    weights: str = "student.safetensors"

    def build(self, weights: str | Path | None = None) -> Detector:
        return build(self.model, self.classes, backbone=self.backbone, weights=weights, options=self.options)

    def save(self, folder: Path) -> None:
        write_json(folder / SPEC, {**asdict(self), "options": dict(self.options)})

    @classmethod
    def load(cls, folder: Path) -> ModelSpec:
        """Raises EyasError when the folder has no spec, or one of another version."""
        path = folder / SPEC
        if not path.is_file():
            raise EyasError(f"{folder}: no {SPEC} here; give the folder of a run, such as --teacher runs/teacher")
        try:
            values = json.loads(path.read_text())
            return cls(**{**values, "classes": tuple(values["classes"]), "resize": Resize(**values["resize"])})
        except (ValueError, TypeError, KeyError) as error:
            raise EyasError(f"{path}: not a model description that this version reads ({error})") from error


def load(folder: str | Path, *, best: bool = False) -> Detector:
    """The trained detector of a run folder, in evaluation mode on the CPU.

    Args:
        folder: of a run.
        best: the weights of its best evaluation in place of the last.

    Raises:
        EyasError: no run there, or weights of another architecture.
    """
    folder = Path(folder)
    spec = ModelSpec.load(folder)
    if (folder / NATIVE).is_dir():  # it describes the detector, wherever what it was first made from may be now
        spec = replace(spec, backbone=str(folder / NATIVE))
    detector = spec.build()
    load_weights(detector.network, folder / (BEST if best else spec.weights))
    detector.network.eval()
    return detector


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network of the same architecture.

    Raises:
        EyasError: the file is missing or damaged, or its tensors are not the network's; the message lists some.
    """
    if not path.is_file():
        raise EyasError(f"{path}: no such weights file; the run may not have finished its first evaluation")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise EyasError(f"{path}: not a readable safetensors file ({error})") from error
    own = network.state_dict()
    wrong = [key for key in own.keys() | state.keys() if key not in own or key not in state]
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        some = ", ".join(sorted(wrong)[:5])
        raise EyasError(f"{path}: a checkpoint of another architecture; {len(wrong)} tensors do not fit: {some} ...")
    network.load_state_dict(state)


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's state dict as safetensors, written whole or not at all."""
    state = {key: value.detach().contiguous().cpu().clone() for key, value in network.state_dict().items()}
    write_atomic(path, lambda part: save_file(state, part))


def save_native(detector: Detector, folder: Path) -> None:
    """Leave a detector in a run folder in its library's own format, where it has one; whole or not at all."""
    if not isinstance(detector, NativeExport):
        return
    part, place = folder / f"{NATIVE}.part", folder / NATIVE
    try:
        shutil.rmtree(part, ignore_errors=True)
        detector.export_native(part)
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    except OSError as error:
        raise could_not_write(place, error) from error


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """A nested mapping of tensors and plain values, readable with ``weights_only=True``."""
    write_atomic(path, lambda part: torch.save(dict(state), part))


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote. Raises EyasError when it is missing or damaged."""
    if not path.is_file():
        raise EyasError(f"{path}: no checkpoint to resume from; start the run anew in another --out")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no exception types
        raise EyasError(f"{path}: not a readable checkpoint ({error})") from error
    return state
