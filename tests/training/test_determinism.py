"""The same weights from the same command: `faults.determinism` in short; and the switch itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.determinism import groups
from faults.equality import differences

from eyas.__main__ import main
from eyas.training.reproducibility import deterministic
from eyas.training.trainer import Trainer
from eyas.types import EyasError
from helpers.tiny import one_epoch, options, write_squares

COLOURS = ("--dataset.augment.brightness=0.3", "--dataset.augment.shift=0.1", "--dataset.augment.scale=[0.8,1.2]")


@pytest.fixture(autouse=True)
def _variable() -> Iterator[None]:
    """The switch leaves cuBLAS's variable set; the process's own is put back."""
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if before is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = before


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_epoch(tmp_path_factory.mktemp("teacher") / "run", data)


def distilled(out: Path, data: Path, teacher: Path, *more: str, workers: int = 0) -> Path:
    own = {"run_deterministic": "true", "run_epochs": 2, "optim_ema": 0.9, "dataset_workers": workers}
    arguments = ["distill", f"--data={data}", f"--teacher={teacher}", "--any_teacher=true", "--method=eyas.FGFI"]
    assert main([*arguments, f"--out={out}", "--method.weight=auto", *options(**own), *more]) == 0
    return out


@pytest.mark.slow
def test_twice_and_with_workers(data: Path, teacher: Path, tmp_path: Path) -> None:
    """Dropout, an automatic weight, a running average, colours, shifts and scales; no worker, and two."""
    first = distilled(tmp_path / "first", data, teacher, *COLOURS)
    for name, workers in (("again", 0), ("workers", 2)):
        assert differences(first, distilled(tmp_path / name, data, teacher, *COLOURS, workers=workers)) == []
    other = distilled(tmp_path / "other", data, teacher, *COLOURS, "--run.seed=1")
    assert "student.safetensors" in differences(first, other), "the seed decides"


@pytest.mark.slow
def test_with_a_cache_and_without(data: Path, teacher: Path, tmp_path: Path) -> None:
    """Filled by no worker, then full; filled by two; and not there."""
    plain = distilled(tmp_path / "plain", data, teacher)
    for name, cache, workers in (("filled", "one", 0), ("full", "one", 2), ("workers", "other", 2)):
        cached = (f"--cache={tmp_path / cache}", "--cache_dtype=float32")
        assert differences(plain, distilled(tmp_path / name, data, teacher, *cached, workers=workers)) == []


def test_the_switch_is_on_in_a_training_and_off_after_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, seen = Trainer.train_step, []

    def watched(self: Trainer, *arguments: Any) -> Any:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic))
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", watched)
    for on in ("true", "false"):
        arguments = ["train", f"--data={data}", f"--out={tmp_path / on}"]
        assert main([*arguments, *options(run_epochs=1, run_deterministic=on)]) == 0
    assert seen == [(True, True)] * 2 + [(False, False)] * 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_everything_is_put_back() -> None:
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    with pytest.raises(ZeroDivisionError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == before
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_an_algorithm() -> None:
    """What PyTorch raises on a device that has none."""
    text = "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'"
    said = r"^--run.deterministic true: put_ does not have.*; leave the option out"
    with pytest.raises(EyasError, match=said), deterministic(True):
        raise RuntimeError(f"{text}. You can turn it off")
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")


def test_the_long_form_compares_like_with_like() -> None:
    for group in groups():
        assert len(group.runs) >= 3 and {run.workers for run in group.runs} == {0, 4}, group.name
