"""DETR and its relatives from Hugging Face transformers: folders of ``save_pretrained``, and ids on its hub.

Also checkpoints of Roboflow's rfdetr, whose network transformers has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.detectors.library import Library
from eyas.detectors.origin import Origin, with_origin
from eyas.detectors.transformers.input_size import read_input_size
from eyas.detectors.transformers.rfdetr_files import is_rfdetr
from eyas.detectors.weight_files import SUFFIXES
from eyas.types import Detector, EyasError

MODEL = "transformers"
CONFIG = "config.json"
FOLDERS = frozenset(
    {
        *("run", "runs", "out", "output", "outputs", "result", "results", "experiments"),
        *("model", "models", "checkpoint", "checkpoints", "weights", "teacher", "teachers", "student", "students"),
    }
)
"""What people call the folders of their models: ``runs/x`` is a mistyped path, and asking the hub for it takes long."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class SavedPretrained:
    """What ``save_pretrained`` and rfdetr write; satisfies `eyas.detectors.library.NativeFormat`."""

    def recognises(self, name: str) -> bool:
        return (Path(name) / CONFIG).is_file() or is_hub_id(name) or is_rfdetr(name)

    def open(self, name: str) -> Detector:
        from eyas.detectors.transformers.adapter import transformers_detector
        from eyas.detectors.transformers.loading import PRETRAINED

        try:
            return with_origin(transformers_detector(None, name, weights=PRETRAINED).eval(), Origin(MODEL, name))
        except EyasError as error:
            if is_hub_id(name):
                raise EyasError(
                    f"{name}: there is no such folder here, so it is taken for a hub id: {error}"
                ) from error
            raise

    def input_size(self, folder: Path) -> Mapping[str, Any]:
        if not is_rfdetr(folder):
            return read_input_size(folder)
        from eyas.detectors.transformers.loading import reading
        from eyas.detectors.transformers.rfdetr import RfDetrCheckpoint

        with reading(str(folder)):
            side = RfDetrCheckpoint(folder).side
        return {"height": side, "width": side}

    def files(self, folder: Path) -> list[Path]:
        if is_rfdetr(folder):
            return [folder]
        weights = sorted(folder.glob("*.safetensors"))
        return [*sorted(folder.glob("*.json")), *weights] if (folder / CONFIG).is_file() and weights else []


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``org/name`` and is no path: ``org`` is no folder here, nor one of `FOLDERS`.

    Nor has it the suffix of a weights file.
    """
    first = name.partition("/")[0]
    return (
        HUB_ID.fullmatch(name) is not None
        and not name.startswith(".")
        and not Path(first).exists()
        and first not in FOLDERS
        and Path(name).suffix not in SUFFIXES
    )


LIBRARY = Library(
    package="transformers",
    adapter="eyas.detectors.transformers.adapter:TransformersDetector",
    builders={MODEL: "eyas.detectors.transformers.adapter:transformers_detector"},
    backbones=lambda: "what has its configuration, a hub id, a folder, a config.json or a checkpoint of rfdetr",
    meta_device=False,
    native=SavedPretrained(),
)
