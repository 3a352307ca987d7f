"""A run that ends early, where its metric no longer gets better."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.evaluation import EvaluationResult
from eyas.runs.checkpoint import load_state
from eyas.runs.log import read_log
from eyas.training.trainer import Trainer
from helpers.tiny import options, write_squares

SCORES = {1: 0.2, 2: 0.4, 3: 0.4, 4: 0.3, 5: 0.9, 6: 0.1}
"""The metric after each epoch: two evaluations in a row, of epochs 3 and 4, are no better than the best."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def score(trainer: Trainer, progress: object) -> EvaluationResult:
        return EvaluationResult("coco", {"map": SCORES[trainer.state.epoch]}, {})

    monkeypatch.setattr(Trainer, "score", score)
    return write_squares(tmp_path / "data", train=4, val=1)


def epochs(out: Path) -> list[int]:
    return [line["epoch"] for line in read_log(out, "val")]


def test_a_run_out_of_patience_ends(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", f"--data={data}"]
    assert main([*common, f"--out={tmp_path / 'short'}", *options(run_epochs=6, run_patience=2)]) == 0
    assert epochs(tmp_path / "short") == [1, 2, 3, 4]
    assert "no better metric in 2 evaluations; the best is 0.400" in capsys.readouterr().out
    assert "| training | 4 of 6 epochs, seed 0 |" in (tmp_path / "short" / "MODEL_CARD.md").read_text()
    assert main([*common, f"--out={tmp_path / 'long'}", *options(run_epochs=6, run_patience=3)]) == 0
    assert epochs(tmp_path / "long") == [1, 2, 3, 4, 5, 6]


def test_while_the_metric_is_undefined_nothing_is_waited_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last weights count as the best until there is a score."""
    for epoch in (1, 2, 3):
        monkeypatch.setitem(SCORES, epoch, float("nan"))
    out = tmp_path / "out"
    assert main(["train", f"--data={data}", f"--out={out}", *options(run_epochs=6, run_patience=2)]) == 0
    assert epochs(out) == [1, 2, 3, 4, 5, 6]
    assert "| training | 6 epochs, seed 0 |" in (out / "MODEL_CARD.md").read_text()


def test_a_resumed_run_has_the_patience_that_is_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in the evaluation of epoch 4, and ends after that epoch like a run that did not fail."""
    common = ["train", f"--data={data}", *options(run_epochs=6, run_patience=2)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*common, f"--out={whole}"]) == 0
    with monkeypatch.context() as patch:
        patch.delitem(SCORES, 4)
        with pytest.raises(KeyError):
            main([*common, f"--out={parts}"])
    assert load_state(parts / "last.pt")["progress"]["waited"] == 1
    for _ in range(2):  # then it has ended, and does not go on
        assert main([*common, f"--out={parts}", "--run.resume=true"]) == 0
        assert epochs(parts) == [1, 2, 3, 4]
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
