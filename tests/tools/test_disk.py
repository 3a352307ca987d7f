"""Disks that are full, read-only or gone, in short: one message, status 2, and a checkpoint to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.disk import ROOM, checkpoint_of, disk, empty, fill_up, last_step, remount
from faults.equality import differences

import eyas.runs.log
from eyas.__main__ import main
from eyas.cache.shards import ShardWriter
from eyas.tools.files import write_atomic
from eyas.training.state import TrainState
from eyas.training.step_log import StepLog
from helpers.tiny import one_epoch, options, write_squares

FULL = Path("/dev/full")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "squares")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return one_epoch(folder / "run", write_squares(folder / "squares"))


def training(data: Path, out: Path, **more: Any) -> list[str]:
    """Eight steps in four epochs."""
    return ["train", f"--data={data}", f"--out={out}", "--run.resume=auto", *options(run_epochs=4, **more)]


def at_step(patch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Do something after a step."""
    after_step = StepLog.__call__

    def disturbed(self: StepLog, state: TrainState, *arguments: Any) -> None:
        after_step(self, state, *arguments)
        if state.step == step:
            act()

    patch.setattr(StepLog, "__call__", disturbed)


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str], *names: str) -> None:
    """The command ends with 2 and one message that has these parts."""
    assert main(arguments) == 2
    said = capfd.readouterr().err
    assert said.count("eyas: ") == 1 and "Traceback" not in said
    assert all(name in said for name in names), said


def resumed(arguments: list[str], data: Path, out: Path) -> None:
    """After the repair the same command gives the files of an undisturbed run."""
    assert main(arguments) == 0
    whole = out.with_name("whole")
    assert main(training(data, whole)) == 0
    assert differences(whole, out) == []


def disturbed(
    arguments: list[str], capfd: pytest.CaptureFixture[str], step: int, act: Callable[[], object], *names: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, act)
        refused(arguments, capfd, *names)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["last.pt", "model.safetensors"])
def test_a_file_that_the_disk_does_not_take(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """What is written of it goes where no byte fits."""
    out = tmp_path / "out"
    arguments = training(data, out)

    def to_full(path: Path, write: Callable[[Path], Any]) -> None:
        write_atomic(path, (lambda _: write(FULL)) if path.name == name else write)

    with pytest.MonkeyPatch.context() as patch:
        said = (f"{name}: could not be written", "No space left on device", "free some space")
        disturbed(arguments, capfd, 3, lambda: patch.setattr("eyas.runs.checkpoint.write_atomic", to_full), *said)
    assert not list(out.glob("*.part"))
    assert checkpoint_of(out) == (2 if name == "last.pt" else 4) and last_step(out) == 4
    resumed(arguments, data, out)


def test_a_disk_that_is_full_and_then_is_not(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "disk"
    out = place / "out"
    with mounted(place):
        disturbed(training(data, out), capfd, 3, lambda: fill_up(place, 0), str(out), "No space left on device")
        assert checkpoint_of(out) == 2
        empty(place)
        resumed(training(data, out), data, out)


def test_a_disk_that_becomes_read_only(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "disk"
    out = place / "out"
    with mounted(place):
        said = ("log.jsonl: could not be written", "Read-only file system")
        disturbed(training(data, out), capfd, 3, lambda: remount(place, "ro"), *said)
        assert (checkpoint_of(out), last_step(out)) == (2, 3)
        remount(place, "rw")
        resumed(training(data, out), data, out)


def mounted(place: Path) -> Any:
    """A disk of its own; skips the test where this process may not mount one."""
    try:
        with disk(place, ROOM):
            pass
    except (PermissionError, FileNotFoundError):
        pytest.skip("may not mount")
    return disk(place, ROOM)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_deleted(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int) -> None:
    out, images, away = tmp_path / "out", data / "images" / "train", tmp_path / "away"
    arguments = training(data, out, dataset_workers=workers)
    disturbed(arguments, capfd, 3, lambda: images.rename(away), f"eyas: {images}/train", ".png: no such image")
    assert checkpoint_of(out) in (2, 4)  # the next batch may have been loaded already, its step the last of the epoch
    away.rename(images)
    resumed(arguments, data, out)


def test_a_run_folder_that_is_gone(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    arguments = training(data, out)
    disturbed(arguments, capfd, 3, lambda: out.rename(away), "log.jsonl: could not be written", "No such file")
    assert not out.exists() and checkpoint_of(away) == 2
    away.rename(out)
    resumed(arguments, data, out)


def test_a_cache_that_is_gone(
    data: Path, teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is filled, the command says so; once it has been read, the training does not need it."""
    cache = tmp_path / "cache"

    def arguments(out: str) -> list[str]:
        own = ["distill", f"--data={data}", f"--teacher={teacher}", "--any_teacher=true", f"--cache={cache}"]
        return [*own, "--method=eyas.FGFI", f"--out={tmp_path / out}", *options(run_epochs=2)]

    add, calls = ShardWriter.add, []

    def vanishing(self: ShardWriter, *record: Any) -> None:
        calls.append(record)
        if len(calls) == 3:
            shutil.rmtree(cache)
        add(self, *record)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", vanishing)
        refused(arguments("early"), capfd, str(cache), "lacks records just written")
    assert not (tmp_path / "early").exists()
    assert main(arguments("whole")) == 0
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: shutil.rmtree(cache))
        assert main(arguments("late")) == 0
    assert not cache.exists() and differences(tmp_path / "whole", tmp_path / "late") == []


def test_half_a_line_at_the_end_of_the_log(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stops in the middle of it."""
    out = tmp_path / "out"

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at_step(patch, 3, stop)
        assert main(training(data, out)) == 130
    with (out / eyas.runs.log.LOG).open("a") as file:
        file.write('{"kind": "train", "step": 4, "lo')
    resumed(training(data, out), data, out)
