"""libreyolo, imported when a name of it is first needed: it imports OpenCV and all of its model families."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from eyas.types import EyasError

VERSIONS = ">=1.6,<1.7"
INSTALL = "pip install 'eyas[libreyolo]'"
MODULES = {
    "LibreYOLO9": "libreyolo.models.yolo9.model",
    "LibreYOLO9Model": "libreyolo.models.yolo9.nn",
    "YOLO9Loss": "libreyolo.models.yolo9.loss",
    "LibreYOLOX": "libreyolo.models.yolox.model",
    "LibreYOLOXModel": "libreyolo.models.yolox.nn",
    "wrap_libreyolo_checkpoint": "libreyolo.utils.serialization",
}
"""What Eyas uses of libreyolo -> the module that has it."""


def of_libreyolo(name: str) -> Any:
    """A class or function of libreyolo, one of `MODULES`.

    Raises:
        EyasError: libreyolo is not installed, or its version lacks the name.
    """
    try:
        version = metadata.version("libreyolo")
    except metadata.PackageNotFoundError as error:
        raise EyasError(f"YOLOv9 and YOLOX need libreyolo: {INSTALL}") from error
    try:
        return getattr(import_module(MODULES[name]), name)
    except (ImportError, AttributeError) as error:
        raise EyasError(
            f"libreyolo {version} does not give Eyas {MODULES[name]}.{name} ({error}); Eyas works with libreyolo "
            f"{VERSIONS}: {INSTALL}"
        ) from error
