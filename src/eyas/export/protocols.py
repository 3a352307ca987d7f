"""What Eyas needs of a runtime: an `Exporter`, which writes a deployed detector, and a `Runtime`, which runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from eyas.detectors.deployed import Deployed
from eyas.types import Size

Files = Mapping[str, bytes]
"""Suffix, with the dot -> content: the files of one exported model, which differ in their suffix only."""


class Runtime(Protocol):
    """An exported model, loaded on the CPU."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The values that the exporter wrote into the model, by name. Raises EyasError when they cannot be read."""
        ...

    def run(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The outputs of these names for images (batch, 3, height, width) in [0, 1]."""
        ...


class Exporter(Protocol):
    """Writes deployed detectors for one runtime, and opens its files.

    Attributes:
        runtime: the runtime's name, for tables.
        suffixes: of its files, with the dot; the first is that of the file which is opened.
    """

    runtime: str
    suffixes: tuple[str, ...]

    def require(self) -> None:
        """Raises EyasError, which names the extra, when a package is missing."""
        ...

    def precisions(self) -> tuple[str, ...]:
        """What the runtime can compute in on this machine: float32, which must equal PyTorch, then others."""
        ...

    def advice(self, precision: str) -> str:
        """What a program of one's own must do to run files in this precision; empty where it need do nothing."""
        ...

    def trace(self, deployed: Deployed, size: Size, *, raw: bool, dynamic_size: bool) -> Any:
        """The model, for any batch size, in a form of the exporter's own. Raises EyasError when it cannot be traced.

        Args:
            deployed: in evaluation mode, on the CPU. The outputs are named ``deployed.raw_names`` and `DETECTIONS`.
            size: (height, width) of the input.
            raw: head outputs only, no detections.
            dynamic_size: leave height and width open too.
        """
        ...

    def build(self, model: Any, metadata: Mapping[str, Any], precision: str, *, heads: bool) -> Files:
        """The files of a traced model.

        Args:
            model: from `trace`.
            metadata: JSON values by name, which `Runtime.metadata` reads back.
            precision: one of `precisions`, in which `open` runs these files.
            heads: keep the head outputs; otherwise the detections are the only outputs.
        """
        ...

    def open(self, model: Path | Files, threads: int | None = None) -> Runtime:
        """Open a file, or the content of its files, to run with ``threads`` threads (None: torch's number).

        Raises EyasError when it, or a package, is missing, or it cannot be read.
        """
        ...

    def quantise(self, files: Files, images: Iterable[Tensor]) -> Files:
        """The files with 8-bit integers, calibrated on images (1, 3, height, width) in [0, 1].

        ``images`` may be read several times. Raises EyasError where the runtime has none, or a package is missing.
        """
        ...
