"""A detector from an ONNX file that `eyas export` made, run by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eyas.data.options import Resize
from eyas.detectors.deployed import Candidates, as_predictions
from eyas.evaluation.cost import ModelCost, measure
from eyas.export.graph import DETECTIONS, as_inputs, as_tensors, read_metadata, require_onnx
from eyas.ops.pixels import filled
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.opening import load
from eyas.types import Detector, EyasError, Level, Prediction, Size, Target

if TYPE_CHECKING:
    import onnxruntime


class OnnxDetector:
    """Satisfies `eyas.types.Detector` as far as a file can: it predicts.

    Attributes:
        network: empty; the weights are in the file.
        classes: class names in label order.
        levels: none.
        resize: what images are resized to, as in the training.
        size: (height, width) of the input, to which smaller images are padded; None where any size will do.
        parameters: how many the detector had.
        gflops: per image, as `eyas.evaluation.cost.ModelCost` counts them.

    Args:
        model: the file, or its contents.
        threads: inside an operation; torch's number when left out.

    Raises:
        EyasError: a package is missing, or this is no file of `eyas export` with detections inside.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None) -> None:
        name = str(model) if isinstance(model, Path) else "the model"
        self.session = open_session(model, threads)
        try:
            values = read_metadata(self.session.get_modelmeta().custom_metadata_map)
            self.classes: tuple[str, ...] = tuple(values["eyas.classes"])
            self.resize = Resize(**values["eyas.resize"])
            self.size: Size | None = tuple(values["eyas.size"]) if values["eyas.size"] else None
            self.parameters, self.gflops = int(values["eyas.parameters"]), float(values["eyas.gflops"])
            raw = bool(values["eyas.raw"])
        except (KeyError, TypeError, ValueError) as error:
            raise EyasError(f"{name}: not an ONNX file of eyas export ({error!r})") from error
        if raw:
            raise EyasError(f"{name}: has the heads' outputs and no detections; export it again without --raw")
        self.name = name
        self.network: nn.Module = nn.Module()
        self.levels: Mapping[str, Level] = {}

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Always raises EyasError: a file does not train."""
        raise EyasError(f"{self.name}: an ONNX file cannot be trained; give the folder of the run")

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections in each image, by falling score, on the CPU.

        Args:
            images: (batch, 3, height, width) in [0, 1].

        Raises:
            EyasError: images larger than the file's fixed size.
        """
        fitted = images if self.size is None else pad_to(images, self.size, self.name)
        return as_predictions(Candidates(*as_tensors(self.session.run(list(DETECTIONS), as_inputs(fitted)))))


def open_detector(run: Path, *, best: bool = False) -> tuple[Resize, Detector]:
    """The detector of a run folder, or of an ONNX file that `eyas export` made, and the size of its input.

    Args:
        run: the folder or the file.
        best: the best checkpoint of the run in place of the last.

    Raises:
        EyasError: it cannot be read, or the best checkpoint of a file is asked for.
    """
    if run.suffix != ".onnx":
        return ModelSpec.load(run).resize, load(run, best=best)
    if best:
        raise EyasError(f"{run}: an ONNX file has one set of weights; leave out --best, or export with it")
    exported = OnnxDetector(run)
    return exported.resize, exported


def cost_of(detector: Detector, size: Size) -> ModelCost:
    """`measure`; an ONNX file itself says what can no longer be counted."""
    cost = measure(detector, size)
    if isinstance(detector, OnnxDetector):
        return replace(cost, parameters=detector.parameters, gflops=detector.gflops)
    return cost


def open_session(model: Path | bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An inference session on the CPU. Raises EyasError when the file is missing or onnxruntime does not read it."""
    require_onnx()
    import onnxruntime

    if isinstance(model, Path) and not model.is_file():
        raise EyasError(f"{model}: no such file; eyas export RUN makes it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait by spinning would take the cores from whatever else runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source: Any = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise EyasError(f"{model if isinstance(model, Path) else 'the model'}: onnxruntime: {error}") from error


def pad_to(images: Tensor, size: Size, name: str = "the model") -> Tensor:
    """Images padded on the right and at the bottom to (height, width), as smaller images of a batch are in training.

    Raises:
        EyasError: they are larger.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if height > size[0] or width > size[1]:
        raise EyasError(
            f"{name}: takes images up to {size[0]} x {size[1]} (height x width), and this one is {height} x {width}; "
            "export with --dynamic_size true"
        )
    padded = filled(len(images), *size, like=images)
    padded[:, :, :height, :width] = images
    return padded
