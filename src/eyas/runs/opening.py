"""From what a user names to a detector: a run folder, its library's own folder, file or hub id, or a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from eyas.data.options import Resize
from eyas.detectors import check_detector, native_format
from eyas.detectors.feature_names import FeatureName
from eyas.detectors.origin import Origin, with_origin
from eyas.detectors.weight_files import SUFFIXES
from eyas.nn.failures import describe_failure
from eyas.runs.checkpoint import SPEC, ModelSpec, load_run
from eyas.runs.recipes import CODE, names_function
from eyas.tools.files import file_digest, files_digest
from eyas.tools.own_modules import import_own
from eyas.types import Detector, EyasError

NAMES = (
    "give a run folder, a folder of save_pretrained or a hub id of transformers, a checkpoint of rfdetr or libreyolo, "
    "package.module:function, which makes a detector, or features:timm:NAME, a teacher of features alone"
)


@dataclass(frozen=True)
class DetectorSource:
    """Where a detector comes from."""

    name: str
    """As the user gave it."""
    kind: Literal["run", "library", "code"]
    """A run folder; a folder, file, hub id or model name of a library; or a function."""
    open: Callable[[], Detector]
    """Loads the detector, in evaluation mode on the CPU. Raises EyasError when there is none."""
    files: tuple[Path, ...] = ()
    """Those that define the detector, a run's description before its weights; empty for code, a hub or nothing."""
    folder: Path | None = None
    """The run folder, which records the size of the input and the classes of the data."""

    @property
    def may_change(self) -> bool:
        """Whether the same name may give another detector the next time: that of a function, or of a hub."""
        return self.kind == "code" or (self.kind == "library" and not self.files)

    @property
    def digest(self) -> str | None:
        """SHA-256 of its weights, or of every file of a library's detector; None where it has no files."""
        if not self.files:
            return None
        return file_digest(self.files[-1]).hex() if self.kind == "run" else files_digest(self.files)

    @property
    def resize(self) -> Resize:
        """The size of the input that a run folder, or a folder of the library, records; else that of the image."""
        if self.kind == "library":
            return native_resize(self.name) or Resize()
        return Resize() if self.folder is None else ModelSpec.load(self.folder).resize


def native_resize(name: str) -> Resize | None:
    """The input size that a library's folder or file states; None for any other name, and where it does not.

    Raises:
        EyasError: it states a size that no image can have.
    """
    native = native_format(name)
    size = {} if native is None else native.input_size(Path(name))
    try:
        return Resize(**size) if size else None
    except (EyasError, TypeError) as error:
        raise EyasError(f"{name}: its files state a size that no image can have: {error}") from error


def resolve_detector(name: str | Path, *, best: bool = False, run_code: bool = True) -> DetectorSource:
    """Tell what a name, as `load` takes it, stands for. Nothing is loaded yet.

    Raises:
        EyasError: the name is that of a function and ``run_code`` is off, or that of a file of weights
            alone, of features of an unknown library, or of none.
    """
    name, folder = str(name), Path(name)
    features = FeatureName.parse(name)
    if features is not None:
        return DetectorSource(name, "library", features.open)
    code = CODE.fullmatch(name)
    if code is not None and names_function(name):
        if not run_code:
            raise EyasError(f"{name}: code is imported only where you name it yourself, not where a file does")
        make, trained = partial(_call, code["maker"]), Path(code["folder"]) if code["folder"] else None
        opened = make if trained is None else partial(load_run, trained, best=best, make=make)
        return DetectorSource(name, "code", opened, folder=trained)
    native = native_format(name)
    if native is not None:
        return DetectorSource(name, "library", partial(native.open, name), tuple(native.files(folder)))
    if folder.suffix in SUFFIXES and not folder.is_file():
        raise EyasError(f"{name}: no such file; {NAMES}")
    if folder.suffix in SUFFIXES:
        raise EyasError(f"{name}: weights alone do not tell which detector they are of; {NAMES} and loads them")
    return DetectorSource(name, "run", partial(load_run, folder, best=best), _run_files(folder), folder)


def load(name: str | Path, *, best: bool = False, run_code: bool = True) -> Detector:
    """The trained detector of a run folder, of a folder or hub id of its library, or of a function.

    Args:
        name: run folder; folder that transformers' save_pretrained wrote, or a hub id; checkpoint of rfdetr or of
            libreyolo; or package.module:function, which is called and returns an `eyas.Detector`.
            ``package.module:function@FOLDER`` gives that detector the weights of a folder that `eyas.save` wrote.
            ``features:timm:NAME`` and ``features:transformers:ID`` are sources of features, see
            `eyas.detectors.features`.
        best: the weights of a run's best evaluation instead of its last.
        run_code: whether a function may be imported and called. Switch it off where the name is read from a file that
            somebody else may have written.

    Returns:
        The detector, in evaluation mode on the CPU.

    Raises:
        EyasError: none of these is there, or the weights are of another architecture.
    """
    return resolve_detector(name, best=best, run_code=run_code).open()


def _run_files(folder: Path) -> tuple[Path, ...]:
    """Description and weights of a run folder that has both."""
    if not (folder / SPEC).is_file():
        return ()
    weights = folder / ModelSpec.load(folder).weights
    return (folder / SPEC, weights) if weights.is_file() else ()


def _call(name: str) -> Detector:
    """The detector that package.module:function returns, in evaluation mode."""
    module, _, function = name.partition(":")
    try:
        maker = getattr(import_own(module), function)
    except (ImportError, AttributeError) as error:
        raise EyasError(f"{name}: {error}; {NAMES}") from error
    except Exception as error:
        raise EyasError(f"{name}: importing {module} failed, {describe_failure(error)}") from error
    try:
        detector = maker()
    except EyasError:
        raise
    except Exception as error:
        raise EyasError(f"{name}: the function failed, {describe_failure(error)}") from error
    check_detector(detector, name)
    detector.network.eval()
    return with_origin(detector, Origin(name))
