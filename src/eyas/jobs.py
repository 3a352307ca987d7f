"""Several trainings at a time, each a process with its own share of the cores, behind one progress bar.

Small networks gain little from a second thread: two trainings of one thread each finish sooner than one after the other
with two.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyas.progress import Progress
from eyas.runlog import LOG, read_log
from eyas.types import EyasError

POLL = 0.5
LINES_SHOWN = 15


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        command: an ``eyas`` command line, without ``eyas``.
        folder: the run folder that it makes or goes on with; what it prints goes to a file beside it.
        steps: optimiser steps that it takes in all.
    """

    command: tuple[str, ...]
    folder: Path
    steps: int

    @property
    def printed(self) -> Path:
        """The file of what it prints."""
        return self.folder.with_name(self.folder.name + ".txt")

    def steps_done(self) -> int:
        """The last step that its log tells of."""
        if not (self.folder / LOG).is_file():
            return 0
        return max((line["step"] for line in read_log(self.folder) if "step" in line), default=0)


def run_jobs(jobs: Sequence[Job], progress: Progress, *, at_once: int | None = None) -> None:
    """Run every job, some at a time, in the given order.

    Args:
        jobs: what to run.
        progress: gets a bar that counts the steps of all jobs.
        at_once: processes at a time; one for each core when None.

    Raises:
        EyasError: a job failed; the message ends with what it printed last. The others are stopped, and resume later.
    """
    cores = os.cpu_count() or 1
    at_once = min(at_once or cores, len(jobs))
    task = progress.task("train", sum(job.steps for job in jobs))
    waiting, running, seen = list(jobs), dict[Job, subprocess.Popen[bytes]](), 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job] = _start(job, max(1, cores // at_once))
            time.sleep(POLL)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                _check(job, running.pop(job))
                progress.say(f"          {job.folder.name} finished")
            done = sum(job.steps_done() for job in jobs)
            progress.advance(task, done - seen)
            seen = done
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        progress.finish(task)


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    # Threads that sleep while they wait leave the core to the other processes.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with job.printed.open("ab") as file:
        command = [sys.executable, "-m", "eyas", *job.command]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _check(job: Job, process: subprocess.Popen[bytes]) -> None:
    if process.returncode:
        last = "\n".join(job.printed.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
        raise EyasError(f"{job.folder}: the training ended with status {process.returncode}; it printed last\n{last}")
