"""The detector behind a name: run folder, native folder, hub id or package.module:function."""

from __future__ import annotations

import importlib
from pathlib import Path

from eyas.detectors import open_native
from eyas.runs.checkpoint import load
from eyas.types import Detector, EyasError


def load_teacher(name: str) -> Detector:
    """The detector of a run folder, of a folder or hub id of its library, or what ``package.module:function`` returns.

    Raises:
        EyasError: none of these is there.
    """
    if ":" not in name or Path(name).exists():
        native = open_native(name)
        return load(name) if native is None else native
    module, _, function = name.partition(":")
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EyasError(f"--teacher {name}: {error}; give a run folder, or package.module:function") from error
    detector = maker()
    if not isinstance(detector, Detector):
        raise EyasError(f"--teacher {name}: returned a {type(detector).__name__}, which is not an eyas.Detector")
    return detector
