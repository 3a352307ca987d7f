"""Progress without a terminal: plain lines in a log file or a pipe."""

from __future__ import annotations

import io
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

import eyas.tools.progress
from eyas.__main__ import main
from eyas.tools.progress import BETWEEN_LINES, FIRST_LINE, Progress
from helpers.tiny import options, write_squares


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_work_shorter_than_the_first_line_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(clock=clock) as progress:
        task = progress.task("check", 9)
        for _ in range(9):
            clock.now += 1
            progress.advance(task)
        progress.finish(task)
    assert capsys.readouterr().out == ""


def test_work_that_counts_nothing_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eyas.tools.progress, "FIRST_LINE", 0.05)
    with Progress() as progress:
        with progress.waiting("teacher   opening x"):
            time.sleep(0.3)
        assert capsys.readouterr().out == "teacher   opening x ...\n"
        with pytest.raises(KeyError), progress.waiting("teacher   short"):
            raise KeyError
        time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_lines_come_at_least_every_thirty_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock, printed = Clock(), []
    with Progress(clock=clock) as progress:
        task = progress.task("train", 1000, unit="steps")
        for _ in range(300):
            clock.now += 1
            progress.advance(task)
            if capsys.readouterr().out:
                printed.append(clock.now)
    gaps = [later - before for before, later in zip([100.0, *printed], [*printed, 400.0], strict=True)]
    assert gaps[0] == FIRST_LINE and set(gaps[1:-1]) == {BETWEEN_LINES}
    assert max(gaps) <= 30


def test_short_tasks_between_lines_do_not_delay_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    clock, printed = Clock(), []
    with Progress(clock=clock) as progress:
        train = progress.task("train", 1000, unit="steps")
        for _ in range(40):
            clock.now += 4
            progress.advance(train)
            score = progress.task("evaluate", 9)
            for _ in range(9):
                clock.now += 1
                progress.advance(score)
            progress.finish(score)
            if capsys.readouterr().out:
                printed.append(clock.now)
    assert max(later - before for before, later in pairwise(printed)) <= 30


def test_a_training_line_has_step_epoch_losses_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(clock=clock) as progress:
        task = progress.task("train", 2000, done=1189, unit="steps", images=8)
        for _ in range(11):
            clock.now += 1
            progress.advance(task, note={"class": 0.5, "box": 1.25}, detail="epoch 3/5")
    line = "train      1199/2000 steps  60 %  8.0 images/s  13:21 left  epoch 3/5  class 0.500  box 1.250"
    assert capsys.readouterr().out.splitlines() == [line]


def test_waiting_without_units_prints_too(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(clock=clock) as progress:
        task = progress.task("train", 4000, unit="steps", images=0)
        for _ in range(140):
            clock.now += 0.5
            progress.advance(task, 0, detail="a   b")
    assert capsys.readouterr().out.splitlines() == ["train      0/4000 steps  0 %  a   b"] * 4


def test_units_without_images_have_a_speed_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(clock=clock) as progress:
        task = progress.task("measure", 5000, unit="models", images=0)
        for _ in range(2):
            clock.now += 15
            progress.advance(task, 3)
        clock.now += 15
        progress.advance(task, 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["measure    3/5000 models  0 %", "measure    9/5000 models  0 %  0.2 models/s  6:55:55 left"]


def test_a_quiet_process_prints_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(quiet=True, clock=clock) as progress:
        task = progress.task("train", 10)
        clock.now += 60
        progress.advance(task)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_bars_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(clock=clock) as progress:
        task = progress.task("train", 10, unit="steps")
        clock.now += 60
        progress.advance(task, detail="epoch 1/2")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "1/10" in shown, "the bar"
    assert "epoch 1/2" not in shown and "steps" not in shown


def test_each_line_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffered(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    pipe, clock = Buffered(), Clock()
    monkeypatch.setattr("sys.stdout", pipe)
    with Progress(clock=clock) as progress:
        task = progress.task("train", 10)
        clock.now += 60
        progress.advance(task)
        assert pipe.flushed == "train      1/10 images  10 %\n"


def test_a_training_in_a_pipe_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eyas.tools.progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(eyas.tools.progress, "BETWEEN_LINES", 0.0)
    data = write_squares(tmp_path / "squares")
    assert main(["train", f"--data={data}", f"--out={tmp_path / 'run'}", *options(run_epochs=2)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    pattern = r"train +3/4 steps  75 %  \d+(\.\d)? images/s  0:\d\d left  epoch 2/2(  \w+ \d+\.\d{3})+"
    assert re.fullmatch(pattern, lines[2]), lines[2]
