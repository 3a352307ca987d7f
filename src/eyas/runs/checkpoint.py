"""Checkpoints: written whole or not at all, read without pickles.

A run folder holds ``model.json`` (how to build the detector), the detector's weights as safetensors by its library's
own names, and ``last.pt``, the state that a run resumes from. Where the detector's library has a format of its own, the
folder ``native`` of a finished run is in that format.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import nn

from eyas.data.options import Resize
from eyas.detectors import build, library_of
from eyas.tools.files import WRITE_ERRORS, could_not_write, part_of, write_atomic, write_json
from eyas.tools.tables import listed
from eyas.tools.tensor_files import check_weights, read_pt, read_safetensors
from eyas.tools.text_files import read_json
from eyas.types import Detector, EyasError

SPEC = "model.json"
BEST = "best.safetensors"
OVERSIZE = 4
"""A description may ask for at most this many times the bytes of the weights, which may be of a shorter type."""
NATIVE = "native"
"""The folder inside a run folder that the detector's own library reads."""


@runtime_checkable
class NativeExport(Protocol):
    """A detector whose library has a format of its own."""

    def export_native(self, folder: Path, input_size: Mapping[str, int] | None = None) -> None:
        """Write all that the library needs to open the detector without Eyas, and the size of its input."""


@dataclass(frozen=True)
class ModelSpec:
    """How a detector is built, and the input it was trained for.

    Attributes:
        model: name of the detector family; or package.module:function, for a detector that code makes.
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
            why = "" if folder.exists() else " There is no such folder."
            advice = "give the folder of a run, such as --teacher runs/teacher, or a hub id of transformers, org/name"
            raise EyasError(f"{folder}: no {SPEC} here; {advice}.{why}")
        values = read_json(path)
        try:
            spec = cls(**{**values, "classes": tuple(values["classes"]), "resize": Resize(**values["resize"])})
        except (ValueError, TypeError, KeyError, EyasError) as error:
            raise EyasError(f"{path}: not a model description that this version reads ({error})") from error
        names = (spec.model, spec.weights, spec.backbone or "", *spec.classes)
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            raise EyasError(f"{path}: not a model description that this version reads: names must be printable texts")
        if not isinstance(spec.options, Mapping) or Path(spec.weights).name != spec.weights:
            raise EyasError(f"{path}: weights must be the name of a file beside it, and options a mapping")
        return spec


def load_run(folder: str | Path, *, best: bool = False, make: Callable[[], Detector] | None = None) -> Detector:
    """The trained detector of a run folder, in evaluation mode on the CPU: of its last or its best evaluation.

    Args:
        folder: the run folder.
        best: the weights of the best evaluation.
        make: makes the detector whose weights the folder holds; by default its description says how it is built. A
            description never names code that is run.

    Raises:
        EyasError: no run there, weights of another architecture, or a detector that code makes and no ``make``.
    """
    folder = Path(folder)
    spec = ModelSpec.load(folder)
    if make is None and ":" in spec.model:
        raise EyasError(
            f"{folder}: its detector is made by {spec.model}, and code is run only where you name it: give "
            f"{spec.model}@{folder}"
        )
    # It describes the detector even where the original source is gone.
    if spec.backbone is not None and (folder / NATIVE).is_dir():
        spec = replace(spec, backbone=str(folder / NATIVE))
    path = folder / (BEST if best else spec.weights)
    if best and not path.is_file() and (folder / spec.weights).is_file():
        raise EyasError(f"{path}: no such weights file, for no evaluation had a metric; leave out --best")
    detector = _built(spec, folder, path) if make is None else make()
    if tuple(detector.classes) != spec.classes:
        made, own = (", ".join(classes) for classes in (detector.classes, spec.classes))
        raise EyasError(f"{folder}: it holds a detector of the classes {own}, and the function makes one of {made}")
    load_weights(detector.network, path)
    detector.network.eval()
    return detector


def _built(spec: ModelSpec, folder: Path, weights: Path) -> Detector:
    """Build the detector of a description, which a stranger may have written: no larger than the weights justify."""
    try:
        if weights.is_file() and library_of(spec.model).meta_device:
            with torch.device("meta"):  # takes no memory
                state = spec.build().network.state_dict()
            wanted = sum(value.numel() * value.element_size() for value in state.values())
            if wanted > OVERSIZE * weights.stat().st_size:
                raise EyasError(f"describes a detector of {wanted:,} bytes, and {weights.name} is not that large")
        return spec.build()
    except EyasError as error:
        raise EyasError(f"{folder / SPEC}: {error}") from error
    except Exception as error:  # options of any kind reach the builders of several libraries
        raise EyasError(f"{folder / SPEC}: no detector can be built by it ({error!r}); get the run again") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network of the same architecture.

    Raises:
        EyasError: the file is missing or damaged, or its tensors are not the network's, NaN or infinite; the message
            lists some.
    """
    if not path.is_file():
        raise EyasError(f"{path}: no such weights file; the run may not have finished its first evaluation")
    state = read_safetensors(path)
    own, found = ({key: value.shape for key, value in values.items()} for values in (network.state_dict(), state))
    wrong = sorted(key for key in own.keys() | found.keys() if own.get(key) != found.get(key))
    if wrong:
        some = listed(wrong, 5)
        raise EyasError(f"{path}: a checkpoint of another architecture; {len(wrong)} tensors do not fit: {some}")
    check_weights(str(path), state)
    network.load_state_dict(state)


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's state dict as safetensors, written whole or not at all."""
    state = {key: value.detach().contiguous().cpu().clone() for key, value in network.state_dict().items()}
    # Not save_file: it writes to a temporary name of its own, and leaves that file when it is killed.
    write_atomic(path, lambda part: part.write_bytes(save(state)))


def save_native(detector: Detector, folder: Path, resize: Resize) -> None:
    """Write a detector of an input size into a run folder in its library's own format, where it has one.

    It is written whole or not at all.
    """
    if not isinstance(detector, NativeExport):
        return
    final = folder / NATIVE
    part = part_of(final)
    try:
        part.mkdir()  # a new folder: no link is followed
        detector.export_native(part, {name: side for name, side in asdict(resize).items() if side is not None})
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
    except WRITE_ERRORS as error:
        raise could_not_write(final, error) from error


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a nested mapping of tensors and plain values, readable with ``weights_only=True``."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # given a path, torch.save hides what is wrong with the disk
            torch.save(dict(state), file)

    write_atomic(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        EyasError: it is missing, damaged or something else, or has NaN or infinite weights.
    """
    if not path.is_file():
        raise EyasError(f"{path}: no checkpoint to resume from; start the run anew in another --out")
    state = read_pt(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise EyasError(f"{path}: not the checkpoint of a run; start the run anew in another --out")
    check_weights(str(path), state["model"])
    return state
