"""Time and memory of the parts of a step, and the command that prints them."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eyas.__main__ import main
from eyas.commands.benchmark import PARTS
from eyas.tools.timing import CLEAR_REFS, Spans, listening, span
from helpers.tiny import options, write_squares

CPU = torch.device("cpu")


def test_each_part_is_charged_with_its_own_time_alone() -> None:
    with listening(Spans(CPU)) as spans:
        with span("outer"):
            time.sleep(0.02)
            with span("inner"):
                time.sleep(0.05)
            time.sleep(0.02)
        with span("inner"):
            time.sleep(0.05)
    assert spans.seconds.keys() == {"outer", "inner"}
    assert 0.04 <= spans.seconds["outer"] < 0.09 < spans.seconds["inner"]


def test_nobody_listens_afterwards_and_a_failure_closes_its_part() -> None:
    with listening(Spans(CPU)) as spans:
        with pytest.raises(ValueError), span("one"), span("two"):
            raise ValueError
        with span("three"):
            pass
    with span("four"):
        pass
    assert spans.seconds.keys() == {"one", "two", "three"} and not spans._open


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peak memory of a part needs Linux's clear_refs, or a GPU")
def test_peak_memory_is_that_of_the_part() -> None:
    with listening(Spans(CPU)) as spans:
        with span("before"):
            pass
        with span("large"), mmap.mmap(-1, 64 * 2**20) as block:  # pages of its own: malloc may have some left over
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
        with span("after"):
            pass
    assert spans.peaks["large"] > spans.peaks["before"] + 48 * 2**20
    assert spans.peaks["after"] < spans.peaks["large"] - 48 * 2**20


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


MAKER = """
import torch
from eyas.detectors import build
def teacher():
    torch.manual_seed(0)
    return build("shuffledet", ("red", "blue"), options={"width": 0.5, "anchor_shapes": [[20, 20], [32, 32]]})
"""


@pytest.mark.parametrize("cached", [False, True])
def test_command(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maker.py").write_text(MAKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    more = [f"--cache={tmp_path / 'cache'}"] if cached else []
    more += ["--method=fgfi", "--method.schedule.end=0.1"]  # the latter needs the length of the training
    arguments = [f"--data={squares}", "--teacher=maker:teacher", "--steps=2", "--warmup=1", "--json_file=out.json"]
    try:
        assert main(["benchmark", *arguments, *more, *options()]) == 0
    finally:
        sys.modules.pop("maker", None)
    figures = json.loads((tmp_path / "out.json").read_text())
    parts = {"data", "student", "teacher", "adapter", "loss", "backward", "optimizer"} | (set() if cached else {"mask"})
    assert figures["parts"].keys() == parts <= set(PARTS)
    assert all(part["ms"] > 0 for part in figures["parts"].values()) and figures["step_ms"] > 0


def test_command_without_teacher(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", f"--data={squares}", "--steps=1", "--warmup=0", *options()]) == 0
    shown = capsys.readouterr().out
    assert "backward" in shown and "not taken apart" in shown and "teacher" not in shown


def test_no_steps(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", f"--data={squares}", "--steps=0", *options()]) == 2
    assert "steps must be at least 1" in capsys.readouterr().err


def test_the_profilers_own_lines_are_off_in_benchmarks() -> None:
    code = "import os, benchmarks; print(os.environ['KINETO_LOG_LEVEL'])"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "99\n"
