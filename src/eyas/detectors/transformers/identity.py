"""Detectors that another library saved in its own format: recognised, read and told from each other."""

from __future__ import annotations

import re
from pathlib import Path

from eyas.detectors.transformers.adapter import TransformersDetector, transformers_detector
from eyas.detectors.transformers.loading import PRETRAINED
from eyas.types import EyasError

CONFIG = "config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_native(name: str) -> bool:
    """Whether a name is a folder that ``save_pretrained`` of transformers wrote, or a hub id."""
    return (Path(name) / CONFIG).is_file() or is_hub_id(name)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``org/name`` and is no path: there is not even a folder ``org`` here."""
    return HUB_ID.fullmatch(name) is not None and not name.startswith(".") and not Path(name).parent.exists()


def open_native(name: str) -> TransformersDetector:
    """The detector of such a folder or hub id, with the class names of its configuration; in evaluation mode.

    Raises:
        EyasError: nothing is there, or it is no detector.
    """
    try:
        return transformers_detector(None, name, weights=PRETRAINED).eval()
    except EyasError as error:
        if is_hub_id(name):
            raise EyasError(f"{name}: there is no such folder here, so it is taken for a hub id: {error}") from error
        raise


def native_files(folder: Path) -> list[Path]:
    """The files of such a folder that make the detector what it is; none where it is another folder."""
    weights = sorted(folder.glob("*.safetensors"))
    return [*sorted(folder.glob("*.json")), *weights] if (folder / CONFIG).is_file() and weights else []
