"""A trained detector, from your own loop, as a folder that `eyas.load` and every command read."""

from __future__ import annotations

from pathlib import Path

from eyas.data.options import Resize
from eyas.detectors import check_detector
from eyas.detectors.origin import Origin, origin_of
from eyas.runs.checkpoint import ModelSpec, save_native, save_weights
from eyas.runs.config import holds_run
from eyas.runs.opening import load
from eyas.tools.files import make_folder
from eyas.types import Detector, EyasError


def save(detector: Detector, folder: str | Path, *, maker: str | None = None, resize: Resize | None = None) -> None:
    """Write a detector into a folder: how it is built, its weights, and its library's own format where it has one.

    ``eyas.load(folder)`` gives it back, and commands take the folder as they take that of a training. Where a function
    of yours makes the detector, name it as well, here by ``maker`` and there as ``package.module:function@FOLDER``:
    code is run only where you name it. An earlier `save` into the folder is replaced.

    Args:
        detector: made by `eyas.build` or `eyas.load`, or by ``maker``.
        folder: made where it does not exist.
        maker: package.module:function, which takes no argument and makes the same detector with any weights.
        resize: the size of the input that the detector is trained for; by default the image's.

    Raises:
        EyasError: nothing says how the detector is made, the function makes another one, the folder is that of a
            training, or it cannot be written.
    """
    check_detector(detector, "eyas.save")
    folder, origin = Path(folder), origin_of(detector) if maker is None else Origin(maker)
    if origin is None:
        raise EyasError(
            f"{folder}: nothing says how this {type(detector).__name__} is built; give eyas.save "
            "maker='package.module:function', a function that makes one"
        )
    if holds_run(folder):
        raise EyasError(f"{folder}: a training left this folder; save the detector in another one")
    if ":" in origin.model:
        _check_maker(detector, origin.model)
    make_folder(folder)
    spec = ModelSpec(origin.model, tuple(detector.classes), origin.backbone, origin.options, resize or Resize())
    save_weights(detector.network, folder / spec.weights)
    save_native(detector, folder, spec.resize)
    spec.save(folder)


def _check_maker(detector: Detector, maker: str) -> None:
    """Raises EyasError unless the function makes a detector of the same classes and tensors."""
    if "@" in maker:
        raise EyasError(f"{maker}: maker is a function alone, package.module:function")
    made = load(maker)
    if tuple(made.classes) != tuple(detector.classes):
        raise EyasError(f"{maker} makes a detector of the classes {', '.join(made.classes)}, and this one has others")
    own, other = ({key: value.shape for key, value in one.network.state_dict().items()} for one in (detector, made))
    wrong = sorted(key for key in own.keys() | other.keys() if own.get(key) != other.get(key))
    if wrong:
        raise EyasError(f"{maker} makes another network; {len(wrong)} tensors differ: {', '.join(wrong[:4])}")
