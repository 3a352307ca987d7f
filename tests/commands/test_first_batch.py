"""What only a forward pass shows is shown before the teacher is scored and its cache is filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eyas.__main__ import main
from helpers.tiny import options, write_squares

COMMON = ("distill", "--any_teacher=true", "--teacher=helpers.tiny:poor_teacher")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data"), train=4, val=2)


def test_heads_that_do_not_fit_are_found_first(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = options(model="fcos", backbone="resnet18", options='{"fpn_channels": 64}', run_epochs=1)
    pairs = "--pairs={'backbone:1': backbone}"
    assert main([*COMMON, f"--data={data}", f"--out={tmp_path / 'run'}", "--method=vanilla", pairs, *student]) == 2
    said = capsys.readouterr()
    assert "teacher   " not in said.out and said.err.startswith("eyas: ") and said.err.count("\n") == 1


def test_an_arm_whose_heads_do_not_fit_is_found_before_any_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = {"model": "fcos", "backbone": "resnet18", "options": {"fpn_channels": 64}, "run": {"epochs": 1}}
    vanilla = {"method": "vanilla", "pairs": {"backbone:1": "backbone"}, "any_teacher": True}
    given = {
        **{"data": str(data), "out": str(tmp_path / "out"), "seeds": [0]},
        **{"student": student, "arms": {"fitting": {**vanilla, "method": "fgfi"}, "unlike": vanilla}},
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(given))
    assert main(["compare", f"--config={tmp_path / 'compare.yaml'}", "--teacher=helpers.tiny:poor_teacher"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: arm unlike: ") and said.count("\n") == 1
    assert not list(tmp_path.glob("out/*-0"))


def test_a_student_that_cannot_learn_is_found_before_the_cache_is_filled(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    frozen = options(optim_freeze="backbone", run_epochs=1)
    assert main([*COMMON, f"--data={data}", f"--out={tmp_path / 'run'}", f"--cache={cache}", *frozen]) == 2
    assert "cannot learn to imitate" in capsys.readouterr().err
    assert not list(cache.glob("score-*")) and not [place for place in cache.iterdir() if place.is_dir()]


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_without_detections_is_not_scored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cached: bool
) -> None:
    command = ["distill", "--teacher=helpers.tiny:features_alone", f"--data={data}", f"--out={tmp_path / 'run'}"]
    cache = [f"--cache={tmp_path / 'cache'}"] if cached else []
    assert main([*command, *cache, *options(run_epochs=1)]) == 0
    assert "teacher   not scored: it has no predict" in capsys.readouterr().out
    assert (tmp_path / "run" / "student.safetensors").is_file()
