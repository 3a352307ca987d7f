"""Classes that are taken together, through every command: training, scores, predictions, an export and a student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyas.__main__ import main
from helpers.tiny import options, write_squares

CLASSES = "{square: [red, blue]}"
MERGED = f"--dataset.classes={CLASSES}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data"), train=4, val=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", f"--data={data}", f"--out={out}", MERGED, *options(run_epochs=1)]) == 0
    return out


def test_a_run_is_scored_and_predicts_in_the_merged_class(run: Path, data: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(run), "--workers=0", "--device=cpu", f"--json_file={scores}"]) == 0
    found = json.loads(scores.read_text())["model"]
    assert list(found["per_class"]) == ["square"] and found["summary"]["map"] is not None
    out = tmp_path / "found"
    assert main(["predict", str(run), str(data / "images" / "val"), f"--out={out}", "--device=cpu"]) == 0
    assert {entry["category"] for entry in json.loads((out / "predictions.json").read_text())} == {"square"}
    assert main(["inspect", str(run), "--workers=0", "--device=cpu", f"--out={tmp_path / 'inspected'}"]) == 0


def test_it_teaches_a_student_of_the_same_class_alone(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", f"--data={data}", f"--teacher={run}", "--any_score=true", *options(run_epochs=1)]
    assert main([*command, MERGED, "--method=vanilla", f"--out={tmp_path / 'student'}"]) == 0
    capsys.readouterr()
    assert main([*command, f"--out={tmp_path / 'other'}"]) == 2
    said = capsys.readouterr().err
    assert "does not know 2 of 2 classes" in said and "teacher: square" in said


@pytest.mark.slow
def test_it_is_exported_with_its_class(run: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    file, scores = tmp_path / "student.onnx", tmp_path / "scores.json"
    assert main(["export", str(run), f"--out={file}"]) == 0
    command = ["evaluate", str(file), f"--data={data}", f"--classes={CLASSES}", "--workers=0", f"--json_file={scores}"]
    assert main(command) == 0
    assert list(json.loads(scores.read_text())["model"]["per_class"]) == ["square"]
