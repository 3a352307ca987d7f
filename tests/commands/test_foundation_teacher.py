"""A source of features as the teacher of the commands: it has no classes, is not scored, and may be cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from eyas.__main__ import main
from eyas.runs.log import read_log
from eyas.training.state import TrainState
from eyas.training.step_log import StepLog
from helpers.tiny import MODEL, one_epoch, options, train_lines, write_squares


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data"), train=4, val=3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return f"features/16:timm:test_vit@{path}"


METHOD = ("--method=cosine", "--method.weight=5")


def test_it_is_not_scored_and_its_cache_gives_the_same_losses(
    data: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", f"--teacher={teacher}", *METHOD, f"--data={data}", *options(run_epochs=1)]
    cache = [f"--cache={tmp_path / 'cache'}", "--cache_dtype=float32"]
    assert main([*command, f"--out={tmp_path / 'runs'}"]) == 0
    said = capsys.readouterr().out
    assert "teacher   not scored: it has features, and detects nothing" in said and "backbone /16 192->64" in said
    assert main([*command, *cache, f"--out={tmp_path / 'cached'}"]) == 0
    assert not read_log(tmp_path / "runs", "teacher") and not list((tmp_path / "cache").glob("score-*"))
    running, cached = (train_lines(tmp_path / name) for name in ("runs", "cached"))
    assert [line["losses"] for line in running] == [pytest.approx(line["losses"], rel=1e-5) for line in cached]


def test_what_it_cannot_do_is_said(
    data: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distil = ["distill", f"--teacher={teacher}", f"--data={data}", f"--out={tmp_path / 'run'}", *options()]
    for arguments, words in (
        ([*distil, "--method=vanilla"], "has features alone"),
        ([*distil, "--method=roi_mimic"], "gives no head outputs or proposals"),
        (["evaluate", teacher, f"--data={data}", "--workers=0", "--device=cpu"], "detects nothing"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert words in said and said.startswith("eyas: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of a step."""
    values = StepLog.values

    def interrupted(self: StepLog, state: TrainState, *arguments: Any) -> dict[str, float]:
        if state.step == step:
            raise KeyboardInterrupt
        return values(self, state, *arguments)

    monkeypatch.setattr(StepLog, "values", interrupted)


@pytest.mark.slow
def test_training_resuming_exporting_and_reporting(
    data: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an automatic weight, and more cells than are compared with each other: other ones in each step."""
    methods = (
        "[{class_path: eyas.Cosine, init_args: {weight: 2.0}},"
        " {class_path: eyas.SelfSimilarity, init_args: {max_cells: 4, weight: {class_path: eyas.Auto, init_args: "
        "{fraction: 0.1, warmup: 1}}}}]"
    )
    command = ["distill", f"--teacher={teacher}", f"--method={methods}", f"--data={data}", *options(run_epochs=4)]
    assert main([*command, f"--out={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert main([*command, f"--out={tmp_path / 'parts'}"]) == 130
    assert main([*command, f"--out={tmp_path / 'parts'}", "--run.resume=true"]) == 0
    assert train_lines(tmp_path / "parts") == train_lines(tmp_path / "whole")
    assert train_lines(tmp_path / "parts")[-1]["losses"]["self_similarity"] > 0
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert main(["export", str(tmp_path / "parts"), f"--out={tmp_path / 'student.onnx'}", "--runs=2"]) == 0
    baseline = one_epoch(tmp_path / "baseline", data)
    report = ["report", str(tmp_path / "parts"), str(baseline), f"--out={tmp_path / 'report.html'}"]
    assert main([*report, "--workers=0", "--device=cpu"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Gap closed" not in page and "Without the teacher" not in page


@pytest.mark.slow
def test_methods_of_features_apply_to_it(teacher: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = tmp_path / "methods.json"
    student = ["--model=shuffledet", f"--options={json.dumps(MODEL)}", f"--json_file={found}"]
    assert main(["methods", f"--teacher={teacher}", *student]) == 0
    applies = {name for name, each in json.loads(found.read_text())["methods"].items() if each["applies"]}
    assert applies >= {"cosine", "self_similarity", "pkd", "cwd", "fitnets", "fgfi"}
    assert applies.isdisjoint({"vanilla", "chen2017", "roi_mimic", "ld"})


@pytest.mark.slow
def test_a_comparison_has_no_row_of_the_teacher_and_no_gap(
    data: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = {
        "model": "shuffledet",
        "options": MODEL,
        "dataset": {"batch_size": 4, "workers": 0},
        "run": {"epochs": 1, "device": "cpu"},
    }
    arms = {"cosine": {"method": {"class_path": "eyas.Cosine", "init_args": {"weight": 2.0}}}}
    config = {"data": str(data), "teacher": teacher, "student": student, "arms": arms, "seeds": [0], "threads": 1}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(config))
    assert main(["compare", f"--config={tmp_path / 'compare.yaml'}", f"--out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "baseline" in said and "cosine" in said
    assert "gap closed" not in said.lower() and "\nteacher" not in said
