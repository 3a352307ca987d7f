"""The file formats of `eyas export`.

A format is one file with an `Exporter` and a `Runtime`, and one line in `EXPORTERS`. `eyas.export.onnx_format` is the
example; nothing else in this package knows a format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from eyas.detectors.deployed import Deployed
from eyas.export.onnx_format import OnnxExporter
from eyas.types import Size


class Runtime(Protocol):
    """A model of one format, loaded on the CPU."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The values that the exporter wrote into the model, by name. Raises ValueError when they cannot be read."""
        ...

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The outputs of these names for images (batch, 3, height, width) in [0, 1]."""
        ...


class Exporter(Protocol):
    """Writes deployed detectors in one format and opens its files.

    Attributes:
        suffix: of its files, with the dot.
        runtime: name of the package that runs them, for tables.
    """

    suffix: str
    runtime: str

    def require(self) -> None:
        """Raises EyasError, which names the extra, when a package is missing."""
        ...

    def trace(self, deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> Any:
        """The model, for any batch size, in a form of the format's own. Raises EyasError when it cannot be traced.

        Args:
            deployed: in evaluation mode, on the CPU. The outputs are named ``deployed.raw_names`` and `DETECTIONS`.
            size: (height, width) of the input.
            raw: head outputs only, no detections.
            dynamic_size: leave height and width open too.
        """
        ...

    def serialise(self, model: Any, metadata: Mapping[str, Any], *, raw: bool) -> tuple[bytes, bytes]:
        """The content of the file, and the same with the head outputs beside the detections, for the comparison.

        `Runtime.metadata` reads the metadata back, JSON values by name.
        """
        ...

    def open(self, model: Path | bytes, threads: int | None = None) -> Runtime:
        """A file, or its content, ready to run. Raises EyasError when it is missing or cannot be read."""
        ...

    def quantise(self, model: bytes, images: Iterable[Tensor]) -> bytes:
        """The content of a file with 8-bit integers. Raises EyasError where the format has none.

        Args:
            model: content of a file.
            images: for calibration, each (1, 3, height, width) in [0, 1].
        """
        ...


EXPORTERS: Mapping[str, Exporter] = {"onnx": OnnxExporter()}
"""Format name -> exporter."""
RUNTIMES: Mapping[str, Callable[[Path], Runtime]] = {exporter.suffix: exporter.open for exporter in EXPORTERS.values()}
"""Suffix of a file -> the function that opens it."""
