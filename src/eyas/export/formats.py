"""The runtimes of `eyas export`, and a detector from a file, on the CPU.

A runtime is one file with an `Exporter` and a `Runtime`, and one line in `EXPORTERS`. `eyas.export.onnx_format` is the
example; nothing else in this package knows a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eyas.data.options import Resize
from eyas.detectors.deployed import DETECTIONS, Candidates, as_predictions
from eyas.evaluation.cost import ModelCost, measure
from eyas.export.onnx_format import OnnxExporter
from eyas.export.openvino_format import OpenVinoExporter
from eyas.export.protocols import Exporter, Runtime
from eyas.nn.failures import running
from eyas.ops.pixels import pad_right_and_bottom
from eyas.runs.opening import resolve_detector
from eyas.types import Detector, EyasError, Level, Prediction, Size, Target

EXPORTERS: Mapping[str, Exporter] = {"onnxruntime": OnnxExporter(), "openvino": OpenVinoExporter()}
"""Runtime -> what writes and opens its files."""
RUNTIMES: Mapping[str, Callable[[Path], Runtime]] = {
    exporter.suffixes[0]: exporter.open for exporter in EXPORTERS.values()
}
"""Suffix of a file -> the function that opens it."""


class ExportedDetector:
    """Satisfies `eyas.types.Detector` as far as a file can: it predicts.

    Attributes:
        network, levels: empty; the weights are in the file.
        classes: class names in label order.
        resize: the resize of the training.
        size: (height, width) of the input, to which smaller images are padded; None if it takes any size.
        parameters, gflops: as in `eyas.evaluation.cost.ModelCost`.

    Args:
        runtime: the opened file.
        name: the file's name, for messages.

    Raises:
        EyasError: `eyas export` did not make this file, or made it without detections.
    """

    def __init__(self, runtime: Runtime, name: str = "the model") -> None:
        self.runtime, self.name = runtime, name
        try:
            values = runtime.metadata
            self.classes: tuple[str, ...] = tuple(values["eyas.classes"])
            if not all(isinstance(each, str) and each.isprintable() for each in self.classes):
                raise ValueError("the classes must be printable texts")
            self.resize = Resize(**values["eyas.resize"])
            self.size: Size | None = _stated_size(values["eyas.size"])
            self.parameters, self.gflops = int(values["eyas.parameters"]), float(values["eyas.gflops"])
            raw = bool(values["eyas.raw"])
        except (KeyError, TypeError, ValueError, EyasError) as error:
            raise EyasError(f"{name}: not a file of eyas export ({error!r})") from error
        if raw:
            raise EyasError(f"{name}: has the heads' outputs and no detections; export it again without --raw")
        self.network: nn.Module = nn.Module()
        self.levels: Mapping[str, Level] = {}

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Always raises EyasError: a file does not train."""
        raise EyasError(f"{self.name}: an exported file cannot be trained; give the folder of the run")

    def predict(self, images: Tensor) -> list[Prediction]:
        """Detections in each image, by descending score, on the CPU.

        Args:
            images: (batch, 3, height, width) in [0, 1].

        Raises:
            EyasError: images larger than the file's fixed size, or a damaged file, which fails or detects classes that
                it does not name.
        """
        fitted = images if self.size is None else pad_to(images, self.size, self.name)
        with running(self.name, fitted):
            found = as_predictions(Candidates(*self.runtime.run(fitted, DETECTIONS)))
        if any(bool((each["labels"] >= len(self.classes)).any()) for each in found):
            raise EyasError(
                f"{self.name}: detects more than the {len(self.classes)} classes that it names; export again"
            )
        return found


def _stated_size(value: Any) -> Size | None:
    """The (height, width) that a file states; None if it takes any size. Raises ValueError for another value."""
    if value is None:
        return None
    height, width = value
    Resize(height, width)  # within its limits
    return height, width


def open_detector(run: str | Path, *, best: bool = False) -> tuple[Resize, Detector]:
    """A detector that `eyas.load` knows, or that of a file that `eyas export` made, and the resize of its input.

    Args:
        run: its name, or the file.
        best: the best checkpoint of the run instead of the last.

    Raises:
        EyasError: it cannot be read, or the best checkpoint of a file is requested.
    """
    file = Path(run)
    if file.suffix not in RUNTIMES:
        source = resolve_detector(run, best=best)
        return source.resize, source.open()
    if best:
        raise EyasError(f"{run}: an exported file has one set of weights; leave out --best, or export with it")
    exported = ExportedDetector(RUNTIMES[file.suffix](file), str(run))
    return exported.resize, exported


def cost_of(detector: Detector, size: Size) -> ModelCost:
    """`measure`, with an exported file's parameters and FLOPs from its metadata, since they cannot be counted."""
    cost = measure(detector, size)
    if isinstance(detector, ExportedDetector):
        return replace(cost, parameters=detector.parameters, gflops=detector.gflops)
    return cost


def pad_to(images: Tensor, size: Size, name: str = "the model") -> Tensor:
    """Images padded on the right and at the bottom to (height, width), like smaller images of a training batch.

    Raises EyasError when they are larger.
    """
    height, width = images.shape[-2:]
    if height > size[0] or width > size[1]:
        raise EyasError(
            f"{name}: takes images up to {size[0]} x {size[1]} (height x width), but this one is {height} x {width}; "
            "export with --dynamic_size true"
        )
    return pad_right_and_bottom(images, *size)
