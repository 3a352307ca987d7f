"""Checkpoints of libreyolo: as a teacher, as initial weights, written and read again; and those that are refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from libreyolo import LibreYOLO
from libreyolo.models.yolo9.model import LibreYOLO9

import eyas
from eyas.data import Resize
from eyas.detectors import LibreYoloDetector, build, native_format
from eyas.detectors.libreyolo.files import NATIVE_FILE, is_checkpoint
from eyas.detectors.libreyolo.names import MODULES, of_libreyolo
from eyas.runs.checkpoint import NATIVE
from eyas.runs.opening import load, resolve_detector
from eyas.types import EyasError, Prediction
from helpers.tiny_yolo import CLASSES, MODELS, tiny_yolo


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def written(folder: Path, model: str, **options: Any) -> tuple[LibreYoloDetector, Path]:
    """A detector in evaluation mode, and its checkpoint."""
    detector = tiny_yolo(model, **options).eval()
    detector.export_native(folder, {"longer": 64})
    return detector, folder / NATIVE_FILE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of YOLOX."""
    return written(tmp_path_factory.mktemp("made"), "yolox")[1]


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copy(made, tmp_path))


def changed(path: Path, **entries: Any) -> Path:
    """The checkpoint with other entries; None takes one out."""
    content = torch.load(path, weights_only=True) | entries
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def same(ours: list[Prediction], theirs: list[Prediction]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["scores"]) > 3
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(a[key], b[key])  # type: ignore[literal-required]


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_is_a_teacher(model: str, tmp_path: Path) -> None:
    """By itself and as the folder that holds it, with its classes and the size of its images."""
    detector, path = written(tmp_path, model)
    for name in (path, tmp_path):
        source = resolve_detector(name)
        assert (source.kind, source.files, source.may_change) == ("library", (path,), False)
        assert source.resize == Resize(longer=64)
        teacher = load(name)
        assert teacher.classes == CLASSES and not teacher.network.training
        state = teacher.network.state_dict()
        assert all(value.equal(state[key]) for key, value in detector.network.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
def test_what_was_loaded_is_saved_as_a_run_and_loaded_again(model: str, tmp_path: Path) -> None:
    opened = load(written(tmp_path, model)[1])
    eyas.save(opened, tmp_path / "run", resize=Resize(height=64, width=64))
    again = load(tmp_path / "run")
    assert again.classes == CLASSES
    same(again.predict(images()), opened.predict(images()))
    native = load(tmp_path / "run" / NATIVE)
    same(native.predict(images()), opened.predict(images()))
    assert resolve_detector(tmp_path / "run" / NATIVE).resize == Resize(longer=64)


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_initialises_a_student(model: str, tmp_path: Path) -> None:
    detector, path = written(tmp_path, model)
    options = {"size": MODELS[model], "score_threshold": 0.0}
    student = build(model, CLASSES, weights=path, options=options)
    assert student.network.training
    student.network.eval()
    same(student.predict(images()), detector.predict(images()))
    with pytest.warns(UserWarning, match="is for another number of classes; these tensors start anew: head"):
        other = build(model, ("a", "b"), weights=path, options=options)
    own, given = other.network.state_dict(), detector.network.state_dict()
    differ = [name for name in own if own[name].shape != given[name].shape]
    assert len(differ) == 6 and all(own[name].equal(given[name]) for name in own if name not in differ)
    with pytest.raises(EyasError, match="weights of another architecture"):
        build(model, CLASSES, weights=path, options={"size": "m"})


def test_initial_weights_of_other_names_are_told(tmp_path: Path) -> None:
    """As many classes in another order: the head is kept, and knows each by the name of another."""
    _, checkpoint = written(tmp_path, "yolox")
    turned = (*CLASSES[1:], CLASSES[0])
    with pytest.warns(
        UserWarning, match=f"as many classes as requested but other names.*{CLASSES[0]} is now {turned[0]}"
    ):
        build("yolox", turned, weights=checkpoint, options={"size": "n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("yolox", CLASSES, weights=checkpoint, options={"size": "n"})


def test_a_checkpoint_of_the_librarys_own_training(tmp_path: Path) -> None:
    """Fine-tuned from COCO's weights: towers of their width, and the auxiliary branch; an older name of the head."""
    torch.manual_seed(0)
    theirs = LibreYOLO9(None, size="t", nb_classes=80, device="cpu")
    theirs._rebuild_for_new_classes(2)
    theirs.names = {0: "cat", 1: "dog"}
    theirs.model.enable_aux()
    path = Path(theirs.save(str(tmp_path / "best.pt")))
    content = torch.load(path, weights_only=True)
    older = {re.sub(r"^head\.", "detect.", name): value for name, value in content["model"].items()}
    assert any(name.startswith("aux_head.") for name in older) and any(name.startswith("detect.cv3") for name in older)
    changed(path, model=older, optimizer={"state": {}}, rng_state={"torch": torch.get_rng_state()})
    teacher = load(path)
    network: Any = teacher.network
    assert teacher.classes == ("cat", "dog") and len(network.head.cv3[0][0].conv.weight) == 80
    theirs.model.eval()
    with torch.no_grad():
        raw = theirs.model(images())["predictions"]
    outputs, _ = teacher.outputs(images())  # type: ignore[attr-defined]
    torch.testing.assert_close(outputs[0].sigmoid().transpose(1, 2), raw[:, 4:])
    eyas.save(teacher, tmp_path / "run")
    assert len(load(tmp_path / "run").network.state_dict()["head.cv3.0.0.conv.weight"]) == 80
    student = build("yolov9", ("a", "b", "c"), options={"size": "t", "class_channels": 80})
    assert len(student.network.state_dict()["head.cv3.0.0.conv.weight"]) == 80


def test_the_library_opens_what_a_run_leaves(tmp_path: Path) -> None:
    detector, path = written(tmp_path, "yolox")
    opened = LibreYOLO(str(path), device="cpu")
    assert opened.names == dict(enumerate(CLASSES)) and opened.size == "n"
    state = opened.model.state_dict()
    assert all(value.equal(state[name]) for name, value in detector.network.state_dict().items())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"model_family": "dfine"}, "a libreyolo dfine for detect; Eyas knows its yolo9 and yolox for detect"),
        ({"model_family": ["yolox"]}, "Eyas knows its yolo9 and yolox"),
        ({"model_family": None}, "Eyas knows its yolo9 and yolox"),
        ({"task": "pose"}, "for pose; Eyas knows"),
        ({"names": {0: "cat", 2: "owl"}}, "labels from 0 without gaps"),
        ({"names": {0: "cat", 1: 3, 2: "owl"}}, "class names must be texts"),
        ({"names": None}, "class names must be texts"),
        ({"names": ["cat", "cat", "owl"]}, "for 3 classes it has the names cat, cat, owl"),
        ({"names": ["cat"]}, "for 3 classes it has the names cat"),
        ({"size": "q"}, "yolox has no size q"),
        ({"size": {}}, "yolox has no size"),
        ({"size": "m"}, "weights of another architecture"),
        ({"model": [1, 2]}, "not a checkpoint of libreyolo"),
        ({"model": {"head": "text"}}, "its `model` must hold tensors alone, and has head"),
        ({"model": {}}, "has nothing"),
        ({"model": {"head.cls_preds.0.bias": torch.tensor([float("nan")])}}, "NaN or infinite"),
        ({"model_family": "yolo9"}, "has no size n"),
    ],
    ids=str,
)
def test_a_checkpoint_that_cannot_be_is_refused(entries: dict[str, Any], said: str, copied: Path) -> None:
    path = changed(copied, **entries)
    with pytest.raises(EyasError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [{"imgsz": -5}, {"imgsz": 10**9}, {"imgsz_h": 4, "imgsz_w": 64}])
def test_a_size_that_is_none_is_refused(size: dict[str, int], copied: Path) -> None:
    path = changed(copied, **size)
    with pytest.raises(EyasError, match="its files state a size that no image can have"):
        _ = resolve_detector(path).resize


def test_a_rectangular_size_is_fitted_into(tmp_path: Path) -> None:
    detector, path = written(tmp_path, "yolox")
    detector.export_native(tmp_path, {"height": 64, "width": 96})
    assert resolve_detector(path).resize == Resize(shorter=64, longer=96)
    assert resolve_detector(changed(path, imgsz=None, imgsz_h=None)).resize == Resize()


def test_code_in_a_checkpoint_is_not_run(copied: Path) -> None:
    path = changed(copied, note=Path("somewhere"))
    assert is_checkpoint(path)
    with pytest.raises(EyasError, match="it holds Python objects"):
        load(path)


def test_other_files_are_not_taken_for_checkpoints(tmp_path: Path) -> None:
    detector, path = written(tmp_path, "yolox")
    weights, cut, text = tmp_path / "weights.pt", tmp_path / "cut.pt", tmp_path / "text.pt"
    torch.save(detector.network.state_dict(), weights)
    cut.write_bytes(path.read_bytes()[:-100])
    text.write_text("libreyolo_version")
    for other in (weights, cut, text, tmp_path / "none.pt", path.rename(tmp_path / "model.bin")):
        assert native_format(str(other)) is None, other
    with pytest.raises(EyasError, match=r"weights alone do not tell .* a checkpoint of rfdetr or libreyolo"):
        load(weights)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(EyasError, match=r"YOLOv9 and YOLOX need libreyolo: pip install 'eyas\[libreyolo\]'"):
        build("yolov9", CLASSES)
    with pytest.raises(EyasError, match="need libreyolo"):
        load(made)
    assert resolve_detector(made).resize == Resize(longer=64)


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "LibreYOLO9Model", "libreyolo.models.yolo9.network")
    with pytest.raises(EyasError, match=r"libreyolo 1\.6\.\d+ does not give Eyas .*\(No module named .*works with"):
        of_libreyolo("LibreYOLO9Model")
    monkeypatch.setitem(MODULES, "LibreYOLO9Model", "libreyolo.models.yolox.nn")
    with pytest.raises(EyasError, match=r"libreyolo\.models\.yolox\.nn\.LibreYOLO9Model"):
        of_libreyolo("LibreYOLO9Model")


@pytest.mark.slow
def test_other_families_do_not_import_the_library() -> None:
    """It imports OpenCV."""
    code = (
        "import sys, eyas; eyas.build('retinanet', ('a',), backbone='resnet18'); eyas.build('shuffledet', ('a',)); "
        "import eyas.detectors.libreyolo.loading; sys.exit('libreyolo' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=200).returncode == 0
