"""A student is exported once before its first step, and nothing of it or of the run changes."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyas.__main__ import main
from eyas.args import RunArgs
from eyas.data import read
from eyas.data.options import Resize
from eyas.detectors.deployed import Deployed
from eyas.export import exportable
from eyas.export.exportable import check_export, try_export
from eyas.types import EyasError
from helpers.exportable import CellsGraph, cells_detector
from helpers.tiny import options, train_lines, write_squares


class DependsOnData(CellsGraph):
    def raw(self, images: torch.Tensor) -> Any:
        if images.sum() > 0:
            return super().raw(images)
        raise ValueError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("exportable"), train=4, val=2)


def check(data: Path, graph: type[Deployed] | None, *, epochs: int = 1, **run: Any) -> list[str]:
    said: list[str] = []
    arguments = RunArgs(epochs=epochs, **run)
    check_export(cells_detector(graph=graph), read(data, "train"), Resize(), arguments, said.append)
    return said


def test_nothing_changes() -> None:
    """Modes one by one, statistics of BatchNorm, gradients, random states."""
    detector = cells_detector()
    detector.network.body[1].eval()
    modes = {name: module.training for name, module in detector.named_modules()}
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = (torch.rand(3), np.random.rand(3), random.random())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    try_export(detector, (64, 48))
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all() and random.random() == expected[2]
    assert {name: module.training for name, module in detector.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(
        one.grad is None and one.requires_grad and type(one) is torch.nn.Parameter for one in detector.parameters()
    )


def test_auto_warns_in_a_long_run_alone(data: Path) -> None:
    assert check(data, None) == [], "4 images"
    (warning,) = check(data, None, epochs=2500)
    assert warning.startswith(
        "warning   this detector cannot be exported once it is trained: this CustomDetector was made"
    )
    (warning,) = check(data, DependsOnData, epochs=2500)
    assert "the exporter cannot trace this detector" in warning
    assert check(data, None, epochs=2500, export_check=False) == []


def test_true_raises_in_every_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EyasError, match=r"cannot be exported: this CustomDetector was made.*export_check false"):
        check(data, None, export_check=True)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EyasError, match=r"pip install \"eyas\[onnx\]\""):
        check(data, CellsGraph, export_check=True)


def test_without_onnx_pytorch_alone_traces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert check(data, CellsGraph, epochs=2500) == []
    assert len(check(data, DependsOnData, epochs=2500)) == 1


def refuse(*_: Any) -> None:
    torch.rand(1)
    raise EyasError("it has a fault")


@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_run_is_refused_before_it_has_a_folder(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exportable, "try_export", refuse)
    teacher = ["--teacher=helpers.tiny:poor_teacher", "--any_teacher=true"] if command == "distill" else []
    out = tmp_path / "run"
    arguments = [command, f"--data={data}", f"--out={out}", *teacher, *options(run_epochs=1)]
    assert main([*arguments, "--run.export_check=true"]) == 2
    assert "this detector cannot be exported: it has a fault" in capsys.readouterr().err
    assert not out.exists()


def test_auto_goes_on_and_its_run_may_be_resumed_with_another_value(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exportable, "try_export", refuse)
    monkeypatch.setattr(exportable, "LONG_RUN", 1)
    arguments = ["train", f"--data={data}", f"--out={tmp_path / 'run'}", *options(run_epochs=1)]
    assert main(arguments) == 0
    assert "warning   this detector cannot be exported once it is trained: it has a fault" in capsys.readouterr().out
    assert main([*arguments, "--run.resume=true", "--run.export_check=false"]) == 0
    assert "cannot be exported" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without_the_check(data: Path, tmp_path: Path) -> None:
    for name, value in (("with", "true"), ("without", "false")):
        arguments = ["train", f"--data={data}", f"--out={tmp_path / name}", *options(run_epochs=2)]
        assert main([*arguments, f"--run.export_check={value}"]) == 0
    assert train_lines(tmp_path / "with") == train_lines(tmp_path / "without")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
