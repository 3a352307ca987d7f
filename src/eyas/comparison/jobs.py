"""Several trainings at a time: each a process with its own share of the cores.

Small networks gain little from a second thread: two trainings side by side with one thread each finish sooner than one
after the other with two.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any

from eyas.runs.config import RESUME, holds_run
from eyas.runs.log import LogTail
from eyas.tools.children import SAVING, end_all, how_it_ended, start_child
from eyas.tools.files import open_own, refuse_links
from eyas.tools.locks import sole_use
from eyas.tools.progress import Progress
from eyas.types import EyasError

PROGRAM = (sys.executable, "-P", "-m", "eyas")
"""Without the working folder on Python's path, where a file of the user's own may be called queue.py."""
POLL = 0.5
LINES_SHOWN = 15


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        command: an ``eyas`` command line, without ``eyas``.
        folder: the run folder that it makes or resumes; its output goes to a file beside it.
        steps: optimiser steps in all.
        images: images in one step; 0 when unknown.
    """

    command: tuple[str, ...]
    folder: Path
    steps: int
    images: int = 0

    @property
    def printed(self) -> Path:
        """The file of its output."""
        return self.folder.with_name(self.folder.name + ".txt")


class JobProgress:
    """Follows the log of a running job, whose run folder need not exist yet.

    Attributes:
        step: the last step in the log; a resumed run goes back to that of its checkpoint.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.step = job, 0
        self._tail = LogTail(job.folder)
        self._last: dict[str, Any] = {}

    def update(self) -> int:
        """Read what was appended to the log since the last call. Returns the number of new steps."""
        before = self.step
        for line in self._tail():
            self.step = line.get("step", self.step)
            if line["kind"] == "train":
                self._last = line
        return self.step - before

    def text(self) -> str:
        """``distilled-0 epoch 3 step 240/400 loss 1.234``, or the name alone before the first step."""
        if not self._last:
            return self.job.folder.name
        # A loss that is not finite is null in the log.
        loss = sum(math.nan if value is None else value for value in self._last["losses"].values())
        epoch = self._last["epoch"] + 1
        return f"{self.job.folder.name} epoch {epoch} step {self.step}/{self.job.steps} loss {loss:.3f}"


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
        """One process for each device, or for as many cores as it has threads; the cores shared out evenly."""
        processes = max(1, min(processes or len(devices) or cores() // (threads or 1), jobs))
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
    """The options that resume a run from its checkpoint. A run without one is removed, to start afresh.

    Raises:
        EyasError: another process is at work there, or it is a link.
    """
    refuse_links(folder, folder.parent)
    saved = (folder / RESUME).is_file()
    if saved or holds_run(folder):
        with sole_use(folder):
            if not saved:
                shutil.rmtree(folder)
    return {"run.resume": "true"} if saved else {}


def run_jobs(
    jobs: Sequence[Job],
    progress: Progress,
    *,
    share: ResourceShare | None = None,
    keep_going: bool = False,
    name: str = "train",
) -> dict[Job, str]:
    """Run every job, some at a time, in the given order.

    Args:
        jobs: the trainings.
        progress: gets a bar that counts the steps of all jobs.
        share: how the jobs share the machine; one process for each core when None.
        keep_going: when a job fails, go on with the others.
        name: of the bar.

    Returns:
        Failed job -> what went wrong; each text ends with the last lines that the job printed.

    Raises:
        EyasError: a job failed and ``keep_going`` is off. The others are stopped, and resume later.
    """
    share = share or ResourceShare.of_machine(len(jobs))
    waiting, running, failed = list(jobs), dict[int, tuple[Job, Popen[bytes]]](), dict[Job, str]()
    followed = {job: JobProgress(job) for job in jobs}
    steps, images = sum(job.steps for job in jobs), sum(job.steps * job.images for job in jobs)
    task = progress.task(name, steps, unit="steps", images=images / max(1, steps))
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
            done = sum(each.update() for each in followed.values())
            progress.advance(task, done, detail="   ".join(followed[job].text() for job, _ in running.values()))
    finally:
        end_all([process for _, process in running.values()], SAVING)
        progress.finish(task)
    return failed


def _start(job: Job, environment: dict[str, str]) -> Popen[bytes]:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with open_own(job.printed, "ab") as file:
        return start_child([*PROGRAM, *job.command], environment, stdout=file, stderr=STDOUT)


def _what_happened(job: Job, status: int) -> str:
    last = "\n".join(job.printed.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:])
    return f"{job.folder}: the training {how_it_ended(status)}; it printed last\n{last}"
