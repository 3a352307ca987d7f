"""Several commands at a time, each its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyas.jobs import Job, run_jobs
from eyas.progress import Progress
from eyas.runlog import RunLog
from eyas.types import EyasError


def test_jobs_run_and_keep_what_they_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(("recipes",), tmp_path / "runs" / name, steps=1) for name in ("a", "b")]
    with Progress() as progress:
        run_jobs(jobs, progress, at_once=2)
    for job in jobs:
        assert "digits/student" in job.printed.read_text()
    assert "a finished" in capsys.readouterr().out


def test_a_failed_job_is_reported_with_its_own_words(tmp_path: Path) -> None:
    job = Job(("evaluate", str(tmp_path / "nowhere")), tmp_path / "run", steps=1)
    with Progress(quiet=True) as progress, pytest.raises(EyasError, match="status 2") as caught:
        run_jobs([job], progress)
    assert "nowhere" in str(caught.value)


def test_steps_are_read_from_the_log_of_the_run(tmp_path: Path) -> None:
    job = Job(("recipes",), tmp_path / "run", steps=9)
    assert job.steps_done() == 0
    job.folder.mkdir()
    log = RunLog(job.folder)
    log("train", step=3)
    log("val", step=7)
    assert job.steps_done() == 7
