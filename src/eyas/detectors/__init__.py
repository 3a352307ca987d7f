"""Detectors: one folder per library, your own through `CustomDetector`, and builders by name.

A library's folder contains

- ``__init__.py``: its `LIBRARY`, the names of its models and where their builders are;
- ``adapter.py``: a class that satisfies `eyas.types.Detector`, with ``deployed()`` where it can be exported;
- ``heads.py``, where its outputs can be distilled: what `eyas.types.DetectorWithHeads` asks for;
- ``deployed.py``: the detector as a graph of fixed output shapes, an `eyas.detectors.deployed.Deployed`;
- a `NativeFormat`, where the library has a file format of its own.

To add a library, write the folder and add its `LIBRARY` to `LIBRARIES` below. ``shuffledet`` is the shortest example.
Nothing outside the folder knows the library. Importing this module imports none of these libraries.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eyas.detectors import libreyolo, shuffledet, torchvision, transformers
from eyas.detectors.class_names import as_names
from eyas.detectors.custom import CustomDetector
from eyas.detectors.deployed import Candidates, Deployed, HeadsOnly, deploy, take_rows, top_scores
from eyas.detectors.library import Library, NativeFormat, imported
from eyas.detectors.origin import Origin, with_origin
from eyas.detectors.weight_files import load_detector, read_weights_file
from eyas.nn.failures import describe_failure
from eyas.types import Detector, EyasError

if TYPE_CHECKING:
    from eyas.detectors.libreyolo.adapter import LibreYoloDetector
    from eyas.detectors.libreyolo.loading import yolov9, yolox
    from eyas.detectors.shuffledet.adapter import ShuffleDet
    from eyas.detectors.torchvision.adapter import TorchvisionDetector
    from eyas.detectors.torchvision.faster_rcnn import faster_rcnn
    from eyas.detectors.torchvision.one_stage import fcos, retinanet, ssd
    from eyas.detectors.transformers.adapter import TransformersDetector, transformers_detector

__all__ = [
    "BUILDERS",
    "LIBRARIES",
    "Candidates",
    "CustomDetector",
    "Deployed",
    "HeadsOnly",
    "LibreYoloDetector",
    "ShuffleDet",
    "TorchvisionDetector",
    "TransformersDetector",
    "build",
    "check_detector",
    "deploy",
    "detection_count",
    "faster_rcnn",
    "fcos",
    "library_of",
    "native_format",
    "retinanet",
    "ssd",
    "take_rows",
    "top_scores",
    "transformers_detector",
    "wrap",
    "yolov9",
    "yolox",
]

LIBRARIES: tuple[Library, ...] = (torchvision.LIBRARY, shuffledet.LIBRARY, libreyolo.LIBRARY, transformers.LIBRARY)
BUILDERS: Mapping[str, Library] = {model: library for library in LIBRARIES for model in library.builders}
"""Model name -> its library: what `build` and the command line know by name."""


CUSTOM = "eyas.CustomDetector(network, classes, losses=..., predict=..., levels=[...])"


def __getattr__(name: str) -> Any:
    """An adapter or a builder of a library, imported when it is first asked for."""
    for library in LIBRARIES:
        for path in (library.adapter, *library.builders.values()):
            if path.endswith(f":{name}"):
                return imported(path)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def library_of(model: str) -> Library:
    """The library of a model. Raises EyasError, which lists the models, when there is none of that name."""
    if model not in BUILDERS:
        raise EyasError(f"there is no model {model!r}; choose from {', '.join(BUILDERS)}")
    return BUILDERS[model]


def build(
    model: str,
    classes: Sequence[str],
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    options: Mapping[str, object] | None = None,
) -> Detector:
    """A detector by name, in training mode on the CPU.

    Args:
        model: a key of `BUILDERS`.
        classes: class names in label order.
        backbone: its name, for models that have a choice; see `eyas.detectors.torchvision.backbones`. For transformers
            the source of the configuration: a hub id, a folder, a config.json or a checkpoint of rfdetr.
        weights: a file, see `eyas.detectors.weight_files`, or a name that the library knows: for torchvision see
            `eyas.detectors.torchvision.pretrained`, for transformers "pretrained", a hub id, a folder or a
            checkpoint of rfdetr. None starts at random.
        options: further keyword arguments of the builder.

    Raises:
        EyasError: an unknown model, backbone or option (the message lists the known ones), or weights that do not fit.
    """
    library = library_of(model)
    classes = as_names(classes)
    if not classes:
        raise EyasError(f"{model} needs at least one class name")
    builder = imported(library.builders[model])
    known = [name for name in inspect.signature(builder).parameters if name != "classes"]
    allowed = [name for name in known if name not in ("backbone", "weights")]
    chosen = dict(options or {})
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        raise EyasError(f"{model} has no option {unknown[0]!r}; it has {', '.join(allowed)}")
    if "backbone" in known:
        if backbone is None:
            raise EyasError(f"{model} needs a backbone: {library.backbones()}")
        chosen["backbone"] = backbone
    elif backbone is not None:
        raise EyasError(f"{model} has its own backbone; leave out backbone {backbone!r}")
    if "weights" in known:
        chosen["weights"] = weights
    detector = _built(model, partial(builder, classes, **chosen), options or {})
    if weights is not None and "weights" not in known:
        load_detector(detector.network, read_weights_file(Path(weights)), library.predictors)
    return with_origin(detector, Origin(model, backbone, dict(options or {})))


def _built(model: str, make: Callable[[], Detector], options: Mapping[str, object]) -> Detector:
    """What a builder makes. Where options may be why it fails, EyasError shows them."""
    try:
        return make()
    except EyasError:
        raise
    except Exception as error:  # several libraries get values of any type
        if not options:
            raise
        said = describe_failure(error)
        raise EyasError(f"{model}: cannot be built with the options {dict(options)!r:.200}: {said}") from error


def detection_count(model: str, options: Mapping[str, object]) -> int | None:
    """The most detections that a model returns for an image, its option ``detections``; None where it has none."""
    if model not in BUILDERS:
        return None
    option = inspect.signature(imported(BUILDERS[model].builders[model])).parameters.get("detections")
    return None if option is None else cast(int, options.get("detections", option.default))


def native_format(name: str) -> NativeFormat | None:
    """The format of a library that recognises a name, a folder or an id on its hub; None when no library does."""
    formats = (library.native for library in LIBRARIES if library.native is not None)
    return next((native for native in formats if native.recognises(name)), None)


def wrap(model: object, classes: Sequence[str]) -> Detector:
    """A detection model of a library, as its own builders or you made it, as a detector of Eyas.

    Args:
        model: a Faster R-CNN, RetinaNet, FCOS or SSD of torchvision, a detector of transformers, or a YOLOv9 or YOLOX
            of libreyolo. It is not copied; how it changes, and further options, are in the adapters' docstrings
            (`TorchvisionDetector`, `TransformersDetector`, `LibreYoloDetector`).
        classes: class names in label order, without the background.

    Raises:
        EyasError: a model of another kind, or with a head for another number of classes.
    """
    library = _library_of_model(model)
    if library is None:
        raise EyasError(f"a {type(model).__name__} is of no library that eyas.wrap knows; bring it in by {CUSTOM}")
    detector: Detector = imported(library.adapter)(model, as_names(classes))
    return detector


def check_detector(given: object, role: str) -> None:
    """Raises EyasError, which says how to make it one, when ``given``, the ``role`` of an argument, is no detector."""
    if isinstance(given, Detector):
        return
    advice = "give an eyas.Detector, such as eyas.build or eyas.load returns"
    if isinstance(given, str | Path):
        advice = f"give the detector that eyas.load({str(given)!r}) returns"
    elif _library_of_model(given) is not None:
        advice = "wrap it: eyas.wrap(model, classes=[...])"
    elif hasattr(given, "named_modules"):
        advice = f"bring it in by {CUSTOM}"
    raise EyasError(f"{role}: a {type(given).__name__} is not an eyas.Detector; {advice}")


def _library_of_model(model: object) -> Library | None:
    """The library that one of a model's classes is from; None when there is none."""
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return next((library for library in LIBRARIES if library.package in packages), None)
