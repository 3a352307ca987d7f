"""YOLOv9 and YOLOX of libreyolo, and its checkpoints, ``.pt`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.detectors.library import Library
from eyas.detectors.libreyolo.files import checkpoint_path, is_checkpoint
from eyas.types import Detector


class Checkpoint:
    """A checkpoint of libreyolo, or a folder with one, see `checkpoint_path`; satisfies `NativeFormat`."""

    def recognises(self, name: str) -> bool:
        return is_checkpoint(checkpoint_path(name))

    def open(self, name: str) -> Detector:
        from eyas.detectors.libreyolo.loading import open_checkpoint

        return open_checkpoint(checkpoint_path(name))

    def input_size(self, folder: Path) -> Mapping[str, Any]:
        from eyas.detectors.libreyolo.loading import read_checkpoint

        return read_checkpoint(checkpoint_path(folder)).input_size

    def files(self, folder: Path) -> list[Path]:
        return [checkpoint_path(folder)]


LIBRARY = Library(
    package="libreyolo",
    adapter="eyas.detectors.libreyolo.adapter:LibreYoloDetector",
    builders={
        "yolov9": "eyas.detectors.libreyolo.loading:yolov9",
        "yolox": "eyas.detectors.libreyolo.loading:yolox",
    },
    meta_device=False,
    native=Checkpoint(),
)
