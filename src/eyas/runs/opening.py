"""From what a user names to a detector: a run folder, a folder or hub id of its library, or package.module:function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from eyas.detectors import native_format
from eyas.runs.checkpoint import SPEC, ModelSpec, load_run
from eyas.types import Detector, EyasError


@dataclass(frozen=True)
class DetectorSource:
    """Where a detector comes from."""

    name: str
    """As the user gave it."""
    kind: Literal["run", "library", "code"]
    """A run folder; a folder or hub id of the detector's library; or a function."""
    open: Callable[[], Detector]
    """Loads the detector, in evaluation mode on the CPU. Raises EyasError when there is none."""
    files: tuple[Path, ...] = ()
    """Those that define the detector, a run's description before its weights; empty for code, a hub or nothing."""

    @property
    def may_change(self) -> bool:
        """Whether the same name may give another detector the next time: that of a function, or of a hub."""
        return self.kind == "code" or (self.kind == "library" and not self.files)


def resolve_detector(name: str | Path, *, best: bool = False) -> DetectorSource:
    """Tell what a name, as `load` takes it, stands for. Nothing is loaded yet."""
    name, folder = str(name), Path(name)
    if ":" in name and not folder.exists():
        return DetectorSource(name, "code", partial(_call, name))
    native = native_format(name)
    if native is not None:
        return DetectorSource(name, "library", partial(native.open, name), tuple(native.files(folder)))
    return DetectorSource(name, "run", partial(load_run, folder, best=best), _run_files(folder))


def load(name: str | Path, *, best: bool = False) -> Detector:
    """The trained detector of a run folder, of a folder or hub id of its library, or of a function.

    Args:
        name: run folder; folder that transformers' save_pretrained wrote, or a hub id; or package.module:function,
            which is called and returns an `eyas.Detector`.
        best: the weights of a run's best evaluation instead of its last.

    Returns:
        The detector, in evaluation mode on the CPU.

    Raises:
        EyasError: none of these is there, or the weights are of another architecture.
    """
    return resolve_detector(name, best=best).open()


def _run_files(folder: Path) -> tuple[Path, ...]:
    """Description and weights of a run folder that has both."""
    if not (folder / SPEC).is_file():
        return ()
    weights = folder / ModelSpec.load(folder).weights
    return (folder / SPEC, weights) if weights.is_file() else ()


def _call(name: str) -> Detector:
    module, _, function = name.partition(":")
    try:
        maker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise EyasError(f"{name}: {error}; give a run folder, or package.module:function") from error
    detector = maker()
    if not isinstance(detector, Detector):
        raise EyasError(f"{name}: returned a {type(detector).__name__}, which is not an eyas.Detector")
    return detector
