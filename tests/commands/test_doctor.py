"""eyas doctor: what is installed against pip's own records, and what it says where a training would not work."""

from __future__ import annotations

import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import eyas.commands.doctor
from eyas.__main__ import main
from eyas.args import DataArgs
from eyas.commands.doctor import EXTRAS, extras, packages, shared_memory, step
from eyas.data import Resize

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
DEVELOPMENT = ("docs", "test")
"""Extras that nobody needs who uses Eyas."""


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough shared memory, whatever the machine has."""
    usage = type(shutil.disk_usage("/"))(2**35, 0, 2**35)
    monkeypatch.setattr(eyas.commands.doctor.shutil, "disk_usage", lambda path: usage)


@pytest.mark.usefixtures("roomy")
def test_a_machine_where_training_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device=cpu"]) == 0
    shown = capsys.readouterr().out
    for name in ("torch", "torchvision", "accelerate", "numpy"):
        assert [name, metadata.version(name)] in [line.split() for line in shown.splitlines()]
    assert "ok     a training step on cpu" in shown
    assert f"  cpu  {torch.get_num_threads()} threads" in shown
    assert shown.endswith("A training would work here.\n")


@pytest.mark.usefixtures("roomy")
def test_wrong_versions_are_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision is made for another torch, and a package is missing."""
    version, requires = metadata.version, metadata.requires

    def without_numpy(name: str) -> str:
        if name == "numpy":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_numpy)
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["torch==1.0.0"] if name == "torchvision" else requires(name)
    )
    problems = {check.name: check.problem for check in packages()}
    wrong = f"torch {version('torch')} is installed: pip install 'torch==1.0.0'"
    assert problems.pop("torch==1.0.0 for torchvision") == wrong
    (numpy,) = [problems.pop(name) for name in list(problems) if name.startswith("numpy")]
    assert numpy is not None and numpy.startswith("numpy is missing: pip install 'numpy>=")
    assert problems and not any(problems.values())
    assert main(["doctor", "--device=cpu"]) == 1
    shown = capsys.readouterr().out
    assert "  wrong  torch==1.0.0 for torchvision" in shown and wrong in shown
    assert shown.endswith("A training would not work here.\n")


def test_shared_memory_by_hand() -> None:
    """3 workers, 2 batches each, 4 images of 3 x 100 x 200 uint8: 1,440,000 bytes."""
    data = DataArgs(workers=3, batch_size=4, resize=Resize(100, 200))
    assert shared_memory(data, 1_440_000).problem is None
    problem = shared_memory(data, 1_439_999).problem
    assert problem is not None and "--dataset.workers 0" in problem and "--shm-size=1g" in problem
    assert shared_memory(DataArgs(workers=0, batch_size=64), 0).problem is None


def test_a_container_of_64_mib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    usage = type(shutil.disk_usage("/"))(2**26, 0, 2**26)
    monkeypatch.setattr(eyas.commands.doctor.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(eyas.commands.doctor, "SHM", Path("/"))
    monkeypatch.setattr(eyas.commands.doctor, "step", lambda device: eyas.commands.doctor.Check("step"))
    assert main(["doctor", "--device=cpu", "--dataset.workers=8"]) == 1
    assert "/ has 0.1 GiB free, the workers need " in capsys.readouterr().out
    assert main(["doctor", "--device=cpu", "--dataset.workers=0"]) == 0


def test_a_device_that_does_not_train() -> None:
    """The meta device computes no values, as a device without kernels does not."""
    problem = step(torch.device("meta")).problem
    assert problem is not None and problem.startswith("meta does not train: ")


def test_the_extras_are_those_of_the_package() -> None:
    declared = {name: specs for name, specs in PROJECT["optional-dependencies"].items() if name not in DEVELOPMENT}
    assert EXTRAS.keys() == declared.keys()
    for extra, (_, names) in EXTRAS.items():
        assert [canonicalize_name(Requirement(spec).name) for spec in declared[extra]] == [
            canonicalize_name(name) for name in names
        ]


def test_extras_that_are_installed_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"timm": "1.2", "onnx": "1.19", "onnxruntime": "1.23"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    rows = {extra: (found, install) for extra, found, _, install in extras()}
    assert rows["timm"] == ("1.2", "")
    assert rows["onnx"] == ("missing", "pip install 'eyas[onnx]'"), "onnxscript is not there"
    assert rows["wandb"] == ("missing", "pip install 'eyas[wandb]'")
