"""Several trainings at a time, each a process with its own share of the cores, behind one progress bar.

Small networks gain little from a second thread: two trainings side by side with one thread each finish sooner than one
after the other with two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyas.runs.checkpoint import RESUME
from eyas.runs.config import CONFIG
from eyas.runs.log import LOG, LogTail
from eyas.tools.progress import Progress
from eyas.types import EyasError

PROGRAM = (sys.executable, "-m", "eyas")
POLL = 0.5
LINES_SHOWN = 15


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        command: an ``eyas`` command line, without ``eyas``.
        folder: the run folder that it makes or resumes; its output goes to a file beside it.
        steps: optimiser steps in all.
    """

    command: tuple[str, ...]
    folder: Path
    steps: int

    @property
    def printed(self) -> Path:
        """The file of its output."""
        return self.folder.with_name(self.folder.name + ".txt")


class StepCount:
    """Counts the steps of a run from what its log gained since the last call.

    Args:
        folder: the run folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._tail = LogTail(folder)
        self._step = 0

    def __call__(self) -> int:
        """The last step in the log; a resumed run goes back to the step of its checkpoint."""
        for line in self._tail():
            self._step = line.get("step", self._step)
        return self._step


@dataclass(frozen=True)
class ResourceShare:
    """How several processes share the machine.

    Attributes:
        processes: how many run at a time.
        threads: CPU threads of each.
        devices: values of CUDA_VISIBLE_DEVICES, one for each device; empty leaves the variable as it is.
    """

    processes: int
    threads: int
    devices: tuple[str, ...] = ()

    @classmethod
    def of_machine(
        cls, jobs: int, *, processes: int | None = None, threads: int | None = None, devices: Sequence[str] = ()
    ) -> ResourceShare:
        """One process for each device, or for each core where there is no device; the cores shared out evenly."""
        processes = max(1, min(processes or len(devices) or cores(), jobs))
        return cls(processes, threads or max(1, cores() // processes), tuple(devices))

    def environment(self, slot: int) -> dict[str, str]:
        """The environment of the process in one of the slots, counted from 0."""
        # Threads that sleep while they wait leave the core to the other processes.
        own = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        if self.devices:
            own["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return {**os.environ, **own}


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resume_options(folder: Path) -> dict[str, str]:
    """The options that resume a run from its checkpoint. A run without one is removed, to start afresh."""
    if (folder / RESUME).is_file():
        return {"run.resume": "true"}
    if (folder / LOG).is_file() or (folder / CONFIG).is_file():
        shutil.rmtree(folder)
    return {}


def run_jobs(
    jobs: Sequence[Job], progress: Progress, *, share: ResourceShare | None = None, keep_going: bool = False
) -> dict[Job, str]:
    """Run every job, some at a time, in the given order.

    Args:
        jobs: the trainings.
        progress: gets a bar that counts the steps of all jobs.
        share: of the machine; one process for each core when None.
        keep_going: when a job fails, go on with the others.

    Returns:
        Failed job to what went wrong; each text ends with the last lines that the job printed.

    Raises:
        EyasError: a job failed and ``keep_going`` is off. The others are stopped, and resume later.
    """
    share = share or ResourceShare.of_machine(len(jobs))
    counts = [StepCount(job.folder) for job in jobs]
    task = progress.task("train", sum(job.steps for job in jobs))
    waiting, running, failed, seen = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]](), dict[Job, str](), 0
    try:
        while waiting or running:
            for slot in range(share.processes):
                if waiting and slot not in running:
                    job = waiting.pop(0)
                    running[slot] = (job, _start(job, share.environment(slot)))
            time.sleep(POLL)
            for slot, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                if process.returncode:
                    failed[job] = _what_happened(job, process.returncode)
                    if not keep_going:
                        raise EyasError(failed[job])
                progress.say(f"          {job.folder.name} {'failed' if job in failed else 'finished'}")
            done = sum(count() for count in counts)
            progress.advance(task, done - seen)
            seen = done
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
        progress.finish(task)
    return failed


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with job.printed.open("ab") as file:
        return subprocess.Popen([*PROGRAM, *job.command], stdout=file, stderr=subprocess.STDOUT, env=environment)


def _what_happened(job: Job, status: int) -> str:
    last = "\n".join(job.printed.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
    return f"{job.folder}: the training ended with status {status}; it printed last\n{last}"
