"""The seam between Eyas and detector libraries: an entry in LIBRARIES is all that the rest of Eyas needs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eyas.detectors
from eyas.detectors import BUILDERS, LIBRARIES, build, native_format
from eyas.detectors.library import Library, imported
from eyas.runs.opening import load, resolve_detector
from eyas.types import Detector, EyasError
from helpers.toys import ToyDetector

ALONE = """
import sys, types
package = types.ModuleType("eyas")
package.__path__ = [sys.argv[1]]
sys.modules["eyas"] = package
import eyas.detectors
sys.exit(any(name in sys.modules for name in ("torchvision", "transformers", "libreyolo", "cv2")))
"""
"""Imports eyas.detectors without the package above it."""


def toy(classes: tuple[str, ...], *, backbone: str, answer: int = 0) -> ToyDetector:
    """A builder."""
    detector = ToyDetector()
    detector.answer = answer  # type: ignore[assignment]
    return detector


class ToyFormat:
    """A folder with a file toy.bin."""

    def recognises(self, name: str) -> bool:
        return (Path(name) / "toy.bin").is_file()

    def open(self, name: str) -> Detector:
        return ToyDetector()

    def input_size(self, folder: Path) -> dict[str, int]:
        return {}

    def files(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("toy.bin"))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    added = Library(
        adapter=f"{__name__}:ToyDetector",
        builders={"toy": f"{__name__}:toy"},
        backbones=lambda: "wood or tin",
        native=ToyFormat(),
    )
    monkeypatch.setattr(eyas.detectors, "LIBRARIES", (*LIBRARIES, added))
    monkeypatch.setitem(BUILDERS, "toy", added)  # type: ignore[arg-type]
    return added


def test_a_model_of_a_new_library_is_built_by_name(library: Library) -> None:
    built: Any = build("toy", ("a",), backbone="wood", options={"answer": 42})
    assert isinstance(built, ToyDetector) and built.answer == 42
    with pytest.raises(EyasError, match="toy needs a backbone: wood or tin"):
        build("toy", ("a",))
    with pytest.raises(EyasError, match="toy has no option 'question'; it has answer"):
        build("toy", ("a",), backbone="tin", options={"question": 6})


@pytest.mark.parametrize("options", [{"width": "x"}, {"anchor_shapes": 5}, {"mean": "abc"}])
def test_options_that_a_builder_cannot_use_are_shown(options: dict[str, object]) -> None:
    with pytest.raises(EyasError, match=f"shuffledet: cannot be built with the options .*{next(iter(options))}"):
        build("shuffledet", ("a",), options=options)


def test_a_native_folder_of_a_new_library_is_a_teacher(library: Library, tmp_path: Path) -> None:
    assert native_format(str(tmp_path)) is None
    (tmp_path / "toy.bin").write_bytes(b"")
    assert isinstance(load(tmp_path), ToyDetector)
    source = resolve_detector(tmp_path)
    assert source.kind == "library" and source.files == (tmp_path / "toy.bin",) and not source.may_change


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: next(iter(library.builders)))
def test_every_library_names_its_adapter_and_builders(library: Library) -> None:
    assert callable(imported(library.adapter).predict)
    for path in library.builders.values():
        name = path.partition(":")[2]
        assert "classes" in inspect.signature(imported(path)).parameters
        assert getattr(eyas.detectors, name) is imported(path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(EyasError, match=r"there is no model 'yolo'; choose from faster_rcnn, .*transformers"):
        build("yolo", ("a",))
    with pytest.raises(AttributeError, match="has no attribute 'yolo'"):
        _ = eyas.detectors.yolo


def test_importing_the_detectors_imports_no_library() -> None:
    source = str(Path(eyas.detectors.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", ALONE, source], check=False).returncode == 0
