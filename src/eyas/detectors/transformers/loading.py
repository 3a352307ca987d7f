"""Models of transformers from a hub id, a folder or a config file, with their weights.

transformers is imported only when a model is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eyas.detectors.weight_files import SUFFIXES, load_detector, read_weights_file
from eyas.types import EyasError

PRETRAINED = "pretrained"
"""The weights of the source that has the configuration."""
PROCESSOR = "preprocessor_config.json"
LOADER_OPTIONS = frozenset(
    {
        *("cache_dir", "code_revision", "force_download", "gguf_file", "local_files_only", "proxies"),
        *("return_unused_kwargs", "revision", "subfolder", "token", "trust_remote_code", "use_auth_token"),
    }
)
"""Arguments of ``from_pretrained`` that are not values of the configuration. A checkpoint must not set them."""


def library() -> Any:
    """The transformers package. Raises EyasError when it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise EyasError("this needs transformers: pip install 'eyas[transformers]'") from error
    return transformers


def load_model(
    source: str, weights: str | Path | None, classes: Sequence[str] | None, overrides: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
    """A model with a head for the classes, and its image processor, None if its source has none.

    Args:
        source: hub id, folder or config file.
        weights: None, "pretrained", a hub id, a folder or a file of tensors.
        classes: class names in label order; None for the configuration's.
        overrides: values that replace those of the configuration.

    Raises:
        EyasError: transformers is not installed, nothing is found at the source, or weights that do not fit.
    """
    refused = sorted(LOADER_OPTIONS & set(overrides))
    if refused:
        raise EyasError(f"{source}: {refused[0]} is not a value of a configuration; leave it out of config")
    given = str(weights) if weights is not None else None
    origin = source if given == PRETRAINED else given
    config = _read(source, library().AutoConfig, **overrides)
    own = [str(config.id2label[label]) for label in range(config.num_labels)]
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: label for label, name in config.id2label.items()}
    if origin is None or Path(origin).suffix in SUFFIXES:
        try:
            model: nn.Module = library().AutoModelForObjectDetection.from_config(config, trust_remote_code=False)
        except ValueError as error:
            raise EyasError(f"{source}: not the configuration of a detector ({error})") from error
        if origin is not None:
            load_detector(model, read_weights_file(Path(origin)))
        return model, _processor(source)
    if origin == source:
        _say_renamed(source, own, classes)
    return _pretrained(origin, config), _processor(origin)


def _pretrained(origin: str, config: Any) -> nn.Module:
    # By default the library would use the checkpoint's own type, which may be float16.
    model, report = _read(
        origin,
        library().AutoModelForObjectDetection,
        config=config,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:4])
        raise EyasError(f"{origin}: weights of another architecture; {len(report['missing_keys'])} missing: {some}")
    fresh = sorted({str(entry if isinstance(entry, str) else entry[0]) for entry in report["mismatched_keys"]})
    if fresh:
        warnings.warn(
            f"{origin} is for another number of classes or queries; these tensors start anew: {', '.join(fresh)}",
            stacklevel=4,
        )
    return model  # type: ignore[no-any-return]


def _say_renamed(source: str, own: Sequence[str], classes: Sequence[str] | None) -> None:
    if classes is None or len(own) != len(classes) or list(own) == list(classes) or own[0].startswith("LABEL_"):
        return
    warnings.warn(
        f"{source} has as many classes as requested but other names, so its head is kept and they are renamed: "
        f"{own[0]} is now {classes[0]}, and so on",
        stacklevel=4,
    )


def _processor(source: str) -> Any:
    path = Path(source)
    if path.is_file() or (path.is_dir() and not (path / PROCESSOR).is_file()):
        return None
    return _read(source, library().AutoImageProcessor)


def _read(source: str, reader: Any, **options: Any) -> Any:
    """``reader.from_pretrained(source)``. Raises EyasError when it finds nothing or cannot read it."""
    if not Path(source).exists() and (
        source.startswith((".", "/", "~")) or Path(source).suffix in (".json", *SUFFIXES)
    ):
        raise EyasError(f"{source}: no such file or folder; give one with a config.json, or a hub id such as org/name")
    try:
        # A source may contain Python code. Without this argument the library asks on the terminal whether to run it.
        return reader.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:  # the library raises these for anything it cannot find or read
        raise EyasError(f"{source}: transformers cannot read it ({error})") from error
