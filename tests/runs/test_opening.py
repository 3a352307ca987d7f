"""One opening for every command: run folders, folders of a library, functions; detectors from Python, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import eyas
from eyas.__main__ import main
from eyas.data import Resize, read
from eyas.detectors import ShuffleDet
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.opening import load, resolve_detector
from eyas.runs.results import nulls_as_nan
from eyas.types import Detector, EyasError, Prediction
from helpers.tiny import CLASSES, COLOURS, MODEL, poor_teacher, write_squares

MORE = ("N/A", "blue", "owl", "red", "N/A")
"""The classes of the squares among others, in another order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=2, val=4)


class Seeing(nn.Module):
    """Finds squares by their exact colour."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.map(images)
        return out


def look(network: nn.Module, images: torch.Tensor) -> list[Prediction]:
    """The bounding box of each colour: right where an image has one square of it."""
    found = []
    network(images)
    for image in images:
        boxes, labels = [], []
        for name, colour in zip(CLASSES, COLOURS, strict=True):
            of = (image - torch.tensor(colour).view(3, 1, 1) / 255).abs().amax(0) < 1e-3
            if of.any():
                rows, columns = (of.any(dim=axis).nonzero().flatten() for axis in (1, 0))
                boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                labels.append(MORE.index(name))
        shaped = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        found.append(Prediction(boxes=shaped, scores=torch.ones(len(boxes)), labels=torch.tensor(labels).long()))
    return found


def seer() -> Detector:
    """For ``test_opening:seer``: a detector that is right, of more classes than the squares."""
    torch.manual_seed(0)
    return eyas.CustomDetector(Seeing(), MORE, predict=look, levels=["map"])


def broken() -> Detector:
    raise ZeroDivisionError("of no use")


def score(name: str, data: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    """The JSON of `eyas evaluate`."""
    out = tmp_path / "scores.json"
    arguments = ["evaluate", name, f"--data={data}", "--workers=0", "--device=cpu", f"--json_file={out}", *more]
    assert main(arguments) == 0
    return dict(json.loads(out.read_text()))


def test_a_teacher_from_code_is_scored_on_my_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes are matched by name; the library call gives the same metrics."""
    scores = score("test_opening:seer", data, tmp_path)["model"]
    assert list(scores["per_class"]) == list(CLASSES) and scores["summary"]["map"] > 0.5
    result = eyas.evaluate(seer(), data)
    assert result.summary == pytest.approx(nulls_as_nan(scores["summary"]), nan_ok=True)
    assert str(result) == str(eyas.evaluate(seer(), read(data, "val"), metric="coco"))
    assert "test_opening:seer" in capsys.readouterr().out


def test_a_class_that_a_detector_does_not_know_is_left_out(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", train=1, val=4, classes=("red", "azure"))
    result = eyas.evaluate(seer(), data)
    assert list(result.per_class) == ["red"]
    assert result.primary == pytest.approx(result.per_class["red"]["map"])


@pytest.mark.parametrize("command", ["predict", "inspect", "data"])
def test_other_commands_take_code_too(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "predict": ["test_opening:seer", str(data / "images" / "val"), f"--out={tmp_path}", "--device=cpu"],
        "inspect": ["test_opening:seer", f"--data={data}", f"--out={tmp_path}", "--workers=0", "--device=cpu"],
        "data": [str(data), "--model=test_opening:seer", "--resize.height=64", "--resize.width=64"],
    }
    assert main([command, *arguments[command]]) == 0
    assert {"predict": "predictions.json", "inspect": "map", "data": "anchor"}[command] in capsys.readouterr().out


def test_foreign_detectors_need_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "test_opening:seer"]) == 2
    assert "give --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_opening:broken", "ZeroDivisionError: of no use (test_opening.py, line"),
        ("test_opening:none", "has no attribute 'none'"),
        ("no_such_module:make", "No module named 'no_such_module'"),
        ("teacher.pth", "no such file; give a run folder"),
        ("./none", "no model.json here"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", name, "--data=."]) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("eyas: ") and "Traceback" not in err


def test_code_runs_only_where_the_user_names_it(data: Path, tmp_path: Path) -> None:
    """A run's config and description may be a stranger's."""
    with pytest.raises(EyasError, match="code is imported only where you name it yourself"):
        resolve_detector("os:abort", run_code=False)
    eyas.save(eyas.build("shuffledet", CLASSES, options=MODEL), tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("teacher: os:abort\n")
    assert list(score(str(tmp_path / "run"), data, tmp_path)) == ["metric", "data", "split", "model"]
    file = tmp_path / "run" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "os:abort"}))
    with pytest.raises(EyasError, match=r"made by os:abort, and code is run only where you name it: give os:abort@"):
        load(tmp_path / "run")


def test_a_saved_detector_is_read_back_by_every_command(data: Path, tmp_path: Path) -> None:
    detector = eyas.build("shuffledet", CLASSES, options=MODEL)
    eyas.save(detector, tmp_path / "mine", resize=Resize(64, 64))
    back = eyas.load(tmp_path / "mine")
    assert all(value.equal(back.network.state_dict()[name]) for name, value in detector.network.state_dict().items())
    assert ModelSpec.load(tmp_path / "mine").resize == Resize(64, 64)
    assert score(str(tmp_path / "mine"), data, tmp_path)["model"]["summary"].keys() >= {"map"}
    eyas.save(back, tmp_path / "again")
    assert eyas.load(tmp_path / "again").classes == CLASSES


def test_a_detector_from_code_is_saved_with_its_maker(data: Path, tmp_path: Path) -> None:
    detector = seer()
    nn.init.constant_(next(detector.network.parameters()), 0.25)
    with pytest.raises(EyasError, match=r"nothing says how this CustomDetector is built; give eyas.save maker="):
        eyas.save(detector, tmp_path / "mine")
    eyas.save(detector, tmp_path / "mine", maker="test_opening:seer", resize=Resize(64, 64))
    name = f"test_opening:seer@{tmp_path / 'mine'}"
    back = eyas.load(name)
    assert next(back.network.parameters()).eq(0.25).all() and resolve_detector(name).resize == Resize(64, 64)
    assert score(name, data, tmp_path)["model"]["summary"]["map"] > 0.5
    eyas.save(back, tmp_path / "again")  # what code made remembers by which function
    assert ModelSpec.load(tmp_path / "again").model == "test_opening:seer"
    with pytest.raises(EyasError, match="code is run only where you name it"):
        eyas.load(tmp_path / "mine")
    with pytest.raises(EyasError, match=r"helpers.tiny:poor_teacher makes a detector of the classes red, blue"):
        eyas.save(detector, tmp_path / "mine", maker="helpers.tiny:poor_teacher")


def test_a_training_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(EyasError, match="a training left this folder"):
        eyas.save(eyas.build("shuffledet", CLASSES, options=MODEL), tmp_path)


def test_a_model_of_a_library_is_wrapped(data: Path) -> None:
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    student, advice = poor_teacher(), r"a SSD is not an eyas.Detector; wrap it: eyas.wrap\(model, classes="
    for call in (
        lambda: eyas.Distiller(model, student),
        lambda: eyas.Distiller(student, model, eyas.FGFI()),
        lambda: eyas.evaluate(model, data),
        lambda: eyas.save(model, data),
    ):
        with pytest.raises(EyasError, match=advice):
            call()
    wrapped = eyas.wrap(model, CLASSES)
    assert wrapped.classes == CLASSES and wrapped.network is model
    assert len(eyas.Distiller(student, wrapped, eyas.FGFI()).pairs) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (nn.Linear(1, 1), r"a Linear is not an eyas.Detector; bring it in by eyas.CustomDetector"),
        ("runs/teacher", r"give the detector that eyas.load\('runs/teacher'\) returns"),
        (3, r"an eyas.Detector, such as eyas.build or eyas.load returns"),
    ],
)
def test_what_is_no_detector_is_refused_with_advice(given: Any, said: str) -> None:
    with pytest.raises(EyasError, match=said):
        eyas.Distiller(poor_teacher(), given, eyas.FGFI())
    with pytest.raises(EyasError, match=r"of no library that eyas.wrap knows"):
        eyas.wrap(given, CLASSES)


def test_evaluating_leaves_the_detector_as_it_is(data: Path) -> None:
    detector = ShuffleDet(CLASSES, **MODEL).train()
    eyas.evaluate(detector, data)
    assert detector.network.training
