"""Kills and signals: `faults.kill` with two kills; SIGTERM and Ctrl-C save after the step."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.equality import cached, differences, rows
from faults.kill import Kill, Trial, enough, finished, judged, killed
from faults.processes import command, wait_for

import eyas.tools.signals
from eyas.__main__ import main
from eyas.runs.config import holds_run
from eyas.tools.signals import Stopped, StopRequest, stop_requests, stopped_by_termination
from eyas.training.trainer import Trainer
from helpers.tiny import one_epoch, options, write_squares

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
METHOD = ["--method=eyas.FGFI", "--method.weight=auto"]


@pytest.fixture(autouse=True, scope="module")
def _own_process() -> Iterator[None]:
    """--run.threads outlives a command; a shell starts background jobs with SIGINT ignored."""
    threads, handler = torch.get_num_threads(), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_epoch(tmp_path_factory.mktemp("teacher") / "run", data)


def distillation(folder: Path, data: Path, teacher: Path, name: str, **more: Any) -> Trial:
    """With a cache, dropout, a running average, accumulation and AdamW: eight steps in four epochs."""
    out, cache = folder / name, folder / f"{name}-cache"
    own = {"dataset_batch_size": 2, "optim_accumulate": 2, "optim_ema": 0.9, "run_epochs": 4, "run_threads": 1}
    arguments = ["distill", f"--data={data}", f"--teacher={teacher}", "--any_teacher=true", *METHOD]
    arguments += [f"--out={out}", f"--cache={cache}", "--run.resume=auto", "--run.evaluate_every=2"]
    events, said = folder / f"{name}.events", folder / f"{name}.txt"
    return Trial((*arguments, *options(**{**own, **more})), out, cache, events, said)


@pytest.fixture
def trial(data: Path, teacher: Path, tmp_path: Path) -> Callable[..., Trial]:
    """A distillation in its own folders, by name and further options."""
    return partial(distillation, tmp_path, data, teacher)


@pytest.fixture(scope="module")
def whole(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """An undisturbed run."""
    made = distillation(tmp_path_factory.mktemp("whole"), data, teacher, "whole")
    assert main(list(made.arguments)) == 0
    return made


@pytest.mark.slow
@linux
def test_a_killed_run_continues_bit_for_bit(trial: Callable[..., Trial], whole: Trial) -> None:
    """Killed by SIGKILL and started again by the same command, a run equals one without kills."""
    parts = trial("parts")
    usual = [(0.0, "filling"), (0.3, "loading"), (0.4, "saving"), (0.6, "loading")]
    chance = random.Random(0)
    first = killed(parts, "filling", usual, chance)
    assert first is not None and first.met == "filling"
    (records,) = cached(parts.cache).values()
    assert len(records) < 16 and not holds_run(parts.out)
    second = killed(parts, "saving", usual, chance)
    assert second is not None and second.met.startswith("saving")
    finished(parts)
    assert judged(parts, whole) == []


def at_batch(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Call a function in the middle of a batch, counted from 1 over the whole run."""
    add_gradient, seen = Trainer.add_gradient, []

    def disturbed(self: Trainer, *arguments: Any) -> Any:
        result = add_gradient(self, *arguments)
        seen.append(1)
        if len(seen) == number:
            act()
        return result

    patch.setattr(Trainer, "add_gradient", disturbed)


@pytest.mark.parametrize(
    ("number", "batch", "step"), [(signal.SIGTERM, 5, 3), (signal.SIGINT, 7, 4), (signal.SIGTERM, 8, 4)]
)
def test_a_signal_in_a_step_saves_after_that_step(
    trial: Callable[..., Trial],
    whole: Trial,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    batch: int,
    step: int,
) -> None:
    """In the middle of an epoch, of a group of accumulated batches, and in the last batch of one."""
    parts = trial("parts")
    handlers = [signal.getsignal(stop) for stop in STATUS]
    with monkeypatch.context() as patch:
        at_batch(patch, batch, lambda: signal.raise_signal(number))
        assert main(list(parts.arguments)) == STATUS[number]
    assert [signal.getsignal(stop) for stop in STATUS] == handlers
    said = capsys.readouterr().err
    assert f"eyas: stopped after step {step}, which is saved; go on with --run.resume true" in said
    progress = torch.load(parts.out / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, step)
    assert [row["step"] for row in rows(parts.out) if row["kind"] == "train"] == list(range(1, step + 1))
    assert main(list(parts.arguments)) == 0
    assert f"resume    after step {step}" in capsys.readouterr().out
    assert differences(whole.out, parts.out) == []


@pytest.mark.parametrize("number", STATUS)
def test_workers_that_get_the_signal_too_finish_the_step(
    trial: Callable[..., Trial],
    whole: Trial,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """As from a terminal, or from a scheduler at its time limit."""

    def everywhere() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, number)
        signal.raise_signal(number)

    parts = trial("parts", dataset_workers=1)
    with monkeypatch.context() as patch:
        at_batch(patch, 6, everywhere)
        assert main(list(parts.arguments)) == 128 + number
    said = capfd.readouterr().err
    assert said.strip() == "eyas: stopped after step 3, which is saved; go on with --run.resume true"
    assert main([*parts.arguments, "--dataset.workers=0"]) == 0
    assert differences(whole.out, parts.out) == []


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_in_an_evaluation_stops_at_once(
    trial: Callable[..., Trial],
    whole: Trial,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Everything was saved before it."""
    parts = trial("parts")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", lambda *_: signal.raise_signal(number))
        assert main(list(parts.arguments)) == 128 + number
    assert "eyas: stopped; a training goes on from its checkpoint" in capsys.readouterr().err
    assert main(list(parts.arguments)) == 0
    assert "resume    after step 4" in capsys.readouterr().out
    assert differences(whole.out, parts.out) == []


def test_a_signal_while_a_checkpoint_is_written_stops_after_the_next_step(
    trial: Callable[..., Trial], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of two steps: the run stops after the third."""
    parts = trial("parts")
    save, seen = Trainer.save, []

    def disturbed(self: Trainer) -> None:
        save(self)
        seen.append(self.state.step)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", disturbed)
        assert main(list(parts.arguments)) == 143
    assert seen == [2, 3]
    said = capsys.readouterr().err
    assert said.strip() == "eyas: stopped after step 3, which is saved; go on with --run.resume true"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_a_signal_to_the_launcher_stops_both_processes(
    trial: Callable[..., Trial], tmp_path: Path, number: int
) -> None:
    # Without evaluations, in which a signal ends a command at once.
    more = {"devices": 2, "dataset_batch_size": 2, "optim_accumulate": 1, "run_epochs": 40, "run_evaluate_every": 0}
    whole, parts = trial("whole", **more), trial("parts", **more)
    log = parts.out / "log.jsonl"
    with command(parts.arguments, parts.said) as running:
        wait_for(lambda: log.exists() and '"step": 3' in log.read_text(), running)
        running.send_signal(number)
        assert running.wait(100) == 128 + number
    said = [line for line in parts.said.read_text().splitlines() if line.startswith("eyas: ")]
    step = torch.load(parts.out / "last.pt", weights_only=True)["progress"]["step"]
    assert said == [f"eyas: stopped after step {step}, which is saved; go on with --run.resume true"]
    for made in (parts, whole):
        with command(made.arguments, made.said) as running:
            assert running.wait(200) == 0
    assert differences(whole.out, parts.out) == []


# The handlers --------------------------------------------------------------------------------------------------------


def test_a_first_signal_waits_for_the_end_of_the_block() -> None:
    with pytest.raises(Stopped) as stop, stop_requests() as request:
        assert request.number == 0
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)  # right after the first: the same one, passed on
        assert request.number == signal.SIGTERM
    assert stop.value.status == 143


def test_a_signal_inside_stop_immediately_stops_at_once() -> None:
    with pytest.raises(Stopped), stop_requests() as request:
        with request.stop_immediately():
            pass
        signal.raise_signal(signal.SIGTERM)  # only sets the request
        with request.stop_immediately():
            pytest.fail("an earlier request stops on entry")
    with pytest.raises(Stopped), stop_requests() as request, request.stop_immediately():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")


def test_a_signal_whose_exception_python_drops_stops_at_the_end_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    dropped: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: dropped.append(unraisable.exc_type))
    done = False
    with pytest.raises(Stopped) as stop, stop_requests() as request, request.stop_immediately():
        last = Last()
        del last
        done = True
    assert dropped == [Stopped] and done and stop.value.status == 130


def test_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.tools.signals, "SAME_SIGNAL_SECONDS", 0.0)
    with pytest.raises(Stopped) as stop, stop_requests() as request:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        pytest.fail(f"went on with {request.number}")
    assert stop.value.status == 130


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_termination_raises_outside_a_training(number: signal.Signals, status: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    with pytest.raises(Stopped) as stop, stopped_by_termination():
        signal.raise_signal(number)
    assert stop.value.status == status and signal.signal(number, before) is signal.SIG_DFL


def test_a_closed_terminal_stops_a_training_after_its_step() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(Stopped) as stop, stop_requests() as request:
        signal.raise_signal(signal.SIGHUP)
        assert request.number == signal.SIGHUP
    assert stop.value.status == 129
    signal.signal(signal.SIGHUP, before)


def test_stop_requests_in_another_thread_changes_no_handler() -> None:
    found: list[StopRequest] = []

    def train() -> None:
        with stop_requests() as request:
            found.append(request)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found[0].number == 0


# The harness ---------------------------------------------------------------------------------------------------------


def test_the_harness_finds_every_kind_of_difference(trial: Callable[..., Trial]) -> None:
    one, other = trial("one", run_epochs=1), trial("other", run_epochs=1)
    for made in (one, other):
        assert main(list(made.arguments)) == 0
    assert judged(other, one) == []
    log = (other.out / "log.jsonl").read_text().splitlines(keepends=True)
    again = next(line for line in log if '"kind": "train"' in line)
    (other.out / "log.jsonl").write_text("".join((*log, again)))
    assert any("steps [1, 2, 1]" in text for text in differences(one.out, other.out))
    changed = [json.dumps({**json.loads(line), "lr": 0}) + "\n" if line == again else line for line in log]
    (other.out / "log.jsonl").write_text("".join(changed))
    assert differences(one.out, other.out) == ["log: train of step 1"]
    weights = other.out / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "student.safetensors" in differences(one.out, other.out)
    (other.out / "left.part").touch()
    assert "files: ['left.part']" in differences(one.out, other.out)
    (shard,) = other.cache.glob("fgfi-*/shard-*.index")
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:-1]))
    assert "1 records of the cache" in judged(other, one)


def test_kills_are_enough_only_with_filling_and_saving_among_them() -> None:
    def made(*met: str) -> list[Kill]:
        return [Kill("any", phase, 1.0, False) for phase in met]

    assert enough(made("filling", "saving last.pt", "training", "training", "training"), 5)
    assert not enough(made("filling", "training", "training", "training", "training"), 5)
    assert not enough(made("filling", "saving last.pt", "training", "training"), 5)
