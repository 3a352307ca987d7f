"""Several commands at a time, each its own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import eyas.comparison.jobs
import eyas.runs.log
from eyas.comparison.jobs import Job, ResourceShare, StepCount, resume_options, run_jobs
from eyas.runs.log import RunLog
from eyas.tools.progress import Progress
from eyas.types import EyasError

PROGRAM = """
import sys
print("given", *sys.argv[1:])
sys.exit(2 if sys.argv[1] == "bad" else 0)
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
    count = StepCount(tmp_path / "run")
    assert count() == 0
    (tmp_path / "run").mkdir()
    log = RunLog(tmp_path / "run")
    log("train", step=3)
    log("val", step=7)
    assert count() == 7
    file = tmp_path / "run" / "log.jsonl"
    with file.open("a") as appended:
        appended.write('{"kind": "train", "st')  # half a line, as a reader may find it
    assert count() == 7
    with file.open("a") as appended:
        appended.write('ep": 8}\n')
    parsed: list[bytes] = []
    loads = eyas.runs.log.json.loads
    monkeypatch.setattr(eyas.runs.log.json, "loads", lambda text: parsed.append(text) or loads(text))
    assert count() == 8
    assert len(parsed) == 1, "what was read before is not read again"
    log("resume", epoch=1, step=5)
    assert count() == 5, "a resumed run goes back to its checkpoint"


def test_the_machine_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyas.comparison.jobs, "cores", lambda: 8)
    assert ResourceShare.of_machine(20) == ResourceShare(8, 1)
    assert ResourceShare.of_machine(2) == ResourceShare(2, 4)
    assert ResourceShare.of_machine(20, processes=3) == ResourceShare(3, 2)
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
