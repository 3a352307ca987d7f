"""Several commands at a time, each its own process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import eyas.comparison.jobs
import eyas.runs.log
import eyas.tools.progress
from eyas.comparison.jobs import Job, JobProgress, ResourceShare, resume_options, run_jobs
from eyas.runs.log import RunLog
from eyas.tools.progress import Progress
from eyas.types import EyasError

PROGRAM = """
import sys
print("given", *sys.argv[1:])
sys.exit(2 if sys.argv[1] == "bad" else 0)
"""
LOGS = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
for step in (1, 2, 3):
    with open(folder / "log.jsonl", "a") as log:
        line = {"kind": "train", "epoch": step // 2, "step": step, "time": 0, "losses": {"class": 0.5, "box": 1.25}}
        log.write(json.dumps(line) + chr(10))
    time.sleep(0.3)
time.sleep(0.5)
"""


@pytest.fixture(autouse=True)
def _other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of `eyas`, which takes seconds to start; `eyas compare` and `eyas demo` are tested with it."""
    monkeypatch.setattr(eyas.comparison.jobs, "PROGRAM", (sys.executable, "-c", PROGRAM))


def test_jobs_run_and_keep_what_they_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(("good", name), tmp_path / "runs" / name, steps=1) for name in ("a", "b")]
    with Progress() as progress:
        run_jobs(jobs, progress, share=ResourceShare(processes=2, threads=1))
    for job in jobs:
        assert job.printed.read_text() == f"given good {job.folder.name}\n"
    assert "a finished" in capsys.readouterr().out


def test_a_failed_job_is_reported_with_its_own_words(tmp_path: Path) -> None:
    job = Job(("bad", "nowhere"), tmp_path / "run", steps=1)
    with Progress(quiet=True) as progress, pytest.raises(EyasError, match="status 2") as caught:
        run_jobs([job], progress)
    assert str(caught.value).endswith("given bad nowhere")


def test_the_others_go_on_when_a_job_has_failed(tmp_path: Path) -> None:
    bad = Job(("bad", "nowhere"), tmp_path / "bad", steps=1)
    good = Job(("good",), tmp_path / "good", steps=1)
    with Progress(quiet=True) as progress:
        failed = run_jobs([bad, good], progress, share=ResourceShare(processes=1, threads=1), keep_going=True)
    assert list(failed) == [bad]
    assert "status 2" in failed[bad] and "nowhere" in failed[bad]
    assert good.printed.read_text() == "given good\n"


def test_steps_are_counted_by_what_was_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobProgress(Job((), tmp_path / "run", steps=9))

    def count() -> int:
        job.update()
        return job.step

    assert count() == 0
    (tmp_path / "run").mkdir()
    log = RunLog(tmp_path / "run")
    log("train", step=3, epoch=0, losses={})
    log("val", epoch=1, step=7, summary={}, per_class={})
    assert count() == 7
    file = tmp_path / "run" / "log.jsonl"
    with file.open("a") as appended:
        appended.write('{"kind": "train", "st')  # half a line, as a reader may find it
    assert count() == 7
    with file.open("a") as appended:
        appended.write('ep": 8, "epoch": 0, "time": 0, "losses": {}}\n')
    parsed: list[str] = []
    parse = eyas.runs.log.parse_json
    monkeypatch.setattr(eyas.runs.log, "parse_json", lambda text, where: parsed.append(text) or parse(text, where))
    assert count() == 8
    assert len(parsed) == 1, "what was read before is not read again"
    log("resume", epoch=1, step=5)
    assert count() == 5, "a resumed run goes back to its checkpoint"


def test_lines_in_a_pipe_show_each_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eyas.tools.progress, "FIRST_LINE", 0.0)
    monkeypatch.setattr(eyas.tools.progress, "BETWEEN_LINES", 0.0)
    monkeypatch.setattr(eyas.comparison.jobs, "POLL", 0.05)
    monkeypatch.setattr(eyas.comparison.jobs, "PROGRAM", (sys.executable, "-c", LOGS))
    jobs = [Job((str(tmp_path / name),), tmp_path / name, steps=4, images=8) for name in ("baseline-0", "fgfi-0")]
    with Progress() as progress:
        run_jobs(jobs, progress, share=ResourceShare(processes=2, threads=1))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]
    both = "baseline-0 epoch 2 step 3/4 loss 1.750   fgfi-0 epoch 2 step 3/4 loss 1.750"
    found = [line for line in lines if line.endswith(both)]
    assert found, lines
    assert re.match(r"train +6/8 steps  75 %  \d+(\.\d)? images/s  0:\d\d left  baseline-0", found[-1]), found[-1]


def test_the_machine_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.comparison.jobs, "cores", lambda: 8)
    assert ResourceShare.of_machine(20) == ResourceShare(8, 1)
    assert ResourceShare.of_machine(2) == ResourceShare(2, 4)
    assert ResourceShare.of_machine(20, processes=3) == ResourceShare(3, 2)
    assert ResourceShare.of_machine(20, threads=2) == ResourceShare(4, 2)
    assert ResourceShare.of_machine(1, threads=2) == ResourceShare(1, 2)
    assert ResourceShare.of_machine(20, processes=16, threads=2) == ResourceShare(16, 2)
    gpus = ResourceShare.of_machine(20, devices=["2", "5"])
    assert (gpus.processes, gpus.threads) == (2, 4)
    crowded = ResourceShare.of_machine(20, processes=3, devices=["2", "5"])
    assert [crowded.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["2", "5", "2"]
    assert crowded.environment(0)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert ResourceShare(1, 1).environment(0)["CUDA_VISIBLE_DEVICES"] == "7", "left as it is"


def test_only_a_run_without_a_checkpoint_is_removed(tmp_path: Path) -> None:
    own, stopped, saved = (tmp_path / name for name in ("own", "stopped", "saved"))
    for folder, file in ((own, "notes.txt"), (stopped, "log.jsonl"), (saved, "last.pt")):
        folder.mkdir()
        (folder / file).write_text("")
    assert resume_options(saved) == {"run.resume": "true"}
    assert resume_options(own) == resume_options(stopped) == resume_options(tmp_path / "none") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "saved"]
