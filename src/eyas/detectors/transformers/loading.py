"""Models of transformers from a hub id, a folder or a config file, with their weights.

transformers is imported only when a model is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from eyas.detectors.class_names import warn_renamed
from eyas.detectors.transformers.input_size import PROCESSOR
from eyas.detectors.transformers.rfdetr import RfDetrCheckpoint
from eyas.detectors.transformers.rfdetr_files import is_rfdetr
from eyas.detectors.weight_files import SUFFIXES, load_detector, read_weights_file
from eyas.tools.tensor_files import check_weights
from eyas.types import EyasError

PRETRAINED = "pretrained"
"""The weights of the source that has the configuration."""
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


class Source(Protocol):
    """Where a model comes from: what ``save_pretrained`` wrote, or a checkpoint of another package."""

    def config(self, overrides: Mapping[str, Any]) -> Any:
        """The configuration, with values that replace its own."""
        ...

    def model(self, config: Any) -> Any:
        """A model of a configuration with the weights, and the library's report of what did not fit."""
        ...

    def processor(self) -> Any:
        """The image processor; None if the source has none."""
        ...


class Saved:
    """A hub id, a folder of ``save_pretrained`` or a config file; satisfies `Source`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def config(self, overrides: Mapping[str, Any]) -> Any:
        return read_pretrained(self.name, library().AutoConfig, **overrides)

    def model(self, config: Any) -> Any:
        # By default the library would use the checkpoint's own type, which may be float16.
        return read_pretrained(
            self.name,
            library().AutoModelForObjectDetection,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
        )

    def processor(self) -> Any:
        path = Path(self.name)
        if path.is_file() or (path.is_dir() and not (path / PROCESSOR).is_file()):
            return None
        return read_pretrained(self.name, library().AutoImageProcessor)


def source_of(name: str) -> Source:
    """What a name stands for. A checkpoint of rfdetr is read. Raises EyasError where it cannot be."""
    library()
    return RfDetrCheckpoint(Path(name)) if is_rfdetr(name) else Saved(name)


def load_model(
    source: str, weights: str | Path | None, classes: Sequence[str] | None, overrides: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
    """A model with a head for the classes, and its image processor, None if its source has none.

    Args:
        source: hub id, folder, config file or checkpoint of rfdetr.
        weights: None, "pretrained", a hub id, a folder, a checkpoint of rfdetr or a file of tensors.
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
    described = source_of(source)
    config = described.config(overrides)
    if classes is None:
        class_names(config, source)
    own = [str(name) for name in config.id2label.values()]
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: label for label, name in config.id2label.items()}
    if origin is None or (Path(origin).suffix in SUFFIXES and not is_rfdetr(origin)):
        try:
            model: nn.Module = library().AutoModelForObjectDetection.from_config(config, trust_remote_code=False)
        except ValueError as error:
            raise EyasError(f"{source}: not the configuration of a detector ({error})") from error
        if origin is not None:
            load_detector(model, read_weights_file(Path(origin)))
        return model, described.processor()
    trained = described if origin == source else source_of(origin)
    if origin != source:
        own = [str(name) for name in trained.config({}).id2label.values()]
    if classes is not None and not own[0].startswith("LABEL_"):
        warn_renamed(origin, own, classes)
    return _pretrained(origin, trained, config, as_saved=classes is None), trained.processor()


@contextmanager
def reading(source: str) -> Iterator[None]:
    """In the context, whatever the library raises about the content of a source becomes an EyasError that names it.

    A source is a file that a stranger may have written, and the library checks little of it: a wrong value raises any
    exception, anywhere between parsing it and the first forward pass.
    """
    try:
        yield
    except EyasError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EyasError(f"{source}: transformers cannot make a model of it ({reason}); check its files") from error


def class_names(config: Any, source: str) -> tuple[str, ...]:
    """The class names of a configuration, in label order. Labels count from 0 without gaps, as the head's columns do.

    Raises:
        EyasError: ``id2label`` is not such a list of names, or ``label2id`` gives its names other labels.
    """
    names = config.id2label
    if not isinstance(names, Mapping) or not all(isinstance(name, str | int) for name in names.values()):
        raise EyasError(f"{source}: id2label must map each label to a class name, got {str(names)[:100]}")
    labels = sorted(names)
    if labels != list(range(len(labels))):
        shown = ", ".join(map(str, labels[:4])) + (", ..." if len(labels) > 4 else "")
        raise EyasError(
            f"{source}: id2label has the labels {shown}; they must count from 0 without gaps, one for each output of "
            "the classification head: correct id2label in its config.json"
        )
    found = tuple(str(names[label]) for label in labels)
    inverse = config.label2id if isinstance(config.label2id, Mapping) else {}
    if inverse.keys() == set(found) and len(inverse) == len(found):
        wrong = [name for label, name in enumerate(found) if inverse[name] != label]
        if wrong:
            raise EyasError(
                f"{source}: id2label gives {wrong[0]} the label {found.index(wrong[0])}, and label2id "
                f"{inverse[wrong[0]]}; correct its config.json"
            )
    return found


def _pretrained(origin: str, source: Source, config: Any, *, as_saved: bool) -> nn.Module:
    """The model with the weights of ``origin``; ``as_saved``: for the classes of its own configuration.

    Raises:
        EyasError: weights that do not fit, NaN or infinite. Where the classes are not ``as_saved``, tensors of another
            shape start anew instead, and a warning lists them.
    """
    model, report = source.model(config)
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:4])
        raise EyasError(f"{origin}: weights of another architecture; {len(report['missing_keys'])} missing: {some}")
    fresh = sorted({str(entry if isinstance(entry, str) else entry[0]) for entry in report["mismatched_keys"]})
    if fresh and as_saved:
        raise EyasError(
            f"{origin}: its weights do not fit its config.json; {len(fresh)} of another shape: {', '.join(fresh[:4])}"
        )
    check_weights(origin, model.state_dict())
    if fresh:
        warnings.warn(
            f"{origin} is for another number of classes or queries; these tensors start anew: {', '.join(fresh)}",
            stacklevel=4,
        )
    return model  # type: ignore[no-any-return]


def read_pretrained(source: str, reader: Any, **options: Any) -> Any:
    """``reader.from_pretrained(source)``. Raises EyasError when it finds nothing or cannot read it."""
    if not Path(source).exists() and (
        source.startswith((".", "/", "~")) or Path(source).suffix in (".json", *SUFFIXES)
    ):
        raise EyasError(f"{source}: no such file or folder; give one with a config.json, or a hub id such as org/name")
    try:
        # A source may contain Python code. Without this argument the library asks on the terminal whether to run it.
        return reader.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:  # the library raises these for what it cannot find
        raise EyasError(f"{source}: transformers cannot read it ({error})") from error
