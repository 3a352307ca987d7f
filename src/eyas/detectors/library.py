"""A detector library as the rest of Eyas sees it: the builders of its models and, if any, its own file format."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eyas.types import Detector


class NativeFormat(Protocol):
    """The format in which a library saves its detectors, so that they can be used without a run folder of Eyas.

    A name is what a user gives as a teacher: a folder, a file, or an id on the library's hub.
    """

    def recognises(self, name: str) -> bool:
        """Whether the name is a folder or file of this format, or an id on the library's hub."""
        ...

    def open(self, name: str) -> Detector:
        """The detector in evaluation mode on the CPU. Raises EyasError when there is none."""
        ...

    def input_size(self, folder: Path) -> Mapping[str, Any]:
        """The size that the images of a saved detector are resized to, by the names of `eyas.data.options.Resize`.

        Empty where the folder does not say. The values are as they stand in its files.
        """
        ...

    def files(self, folder: Path) -> list[Path]:
        """The files that identify a saved detector, in a fixed order; none if the weights are on a hub."""
        ...


@dataclass(frozen=True)
class Library:
    """One detector library. Creating it imports nothing; its builders import the library.

    Attributes:
        adapter: "module:class" of its detectors.
        package: the package whose models the adapter takes; empty if its models are Eyas' own.
        builders: model name -> "module:function" that builds the detector from its classes and keyword arguments.
        backbones: describes the backbones a builder takes, for the error when none is given.
        meta_device: whether its builders work under ``torch.device("meta")``, where a model takes no memory. A run's
            detector is built there first, to refuse a description that asks for far more memory than its weights.
        native: the library's own file format.
        predictors: prefixes of the tensors whose shapes depend on the number of classes, for builders that take no
            weights. They start anew under weights for other classes.
    """

    adapter: str
    builders: Mapping[str, str]
    package: str = ""
    backbones: Callable[[], str] = str
    meta_device: bool = True
    native: NativeFormat | None = None
    predictors: tuple[str, ...] = ()


def imported(path: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
