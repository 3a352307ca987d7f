"""Every method that comes with Eyas through its life: train, resume, export, report, in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from eyas.__main__ import main
from eyas.commands.names import METHODS
from eyas.runs.log import read_log
from eyas.training.trainer import Trainer
from helpers.method_pairs import on_command_line, pair_of, student_arguments, teacher_argument
from helpers.tiny import write_squares

TRAINING = [
    *("--run.epochs=2", "--run.precision=bf16", "--run.device=cpu", "--run.log_every=1", "--run.threads=1"),
    *("--dataset.batch_size=2", "--dataset.workers=0", "--optim.lr=0.001", "--any_teacher", "--run.export_check=false"),
]


class Stopped(Exception):
    """Ends a training as a signal does, after its first epoch."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data"), train=4, val=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_train_resume_export_report(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = on_command_line(pair_of(name))
    method = [f"--method={name}", "--method.weight={fraction: 1.0, warmup: 1, every: 1}"]
    command = ["distill", f"--data={data}", teacher_argument(pair), *student_arguments(pair, tmp_path), *method]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main([*command, f"--out={whole}", *TRAINING]) == 0
    losses = [line["losses"][name] for line in read_log(whole, "train")]
    assert losses and all(loss is not None for loss in losses), "finite"

    save = Trainer.save

    def stop(self: Trainer) -> None:
        save(self)
        if not self.state.batch:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "save", stop)
        main([*command, f"--out={resumed}", *TRAINING])
    assert main([*command, f"--out={resumed}", *TRAINING, "--run.resume=true"]) == 0
    first, second = (load_file(folder / "student.safetensors") for folder in (whole, resumed))
    assert all(bool((first[key] == second[key]).all()) for key in first), "a resumed run ends as one that was not"

    assert main(["export", str(whole), f"--out={tmp_path / 'student.onnx'}", "--runs=1"]) == 0
    assert main(["report", str(whole), f"--out={tmp_path / 'report.html'}", "--workers=0", "--device=cpu"]) == 0
    assert name in (tmp_path / "report.html").read_text()
