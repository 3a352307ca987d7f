"""The processes of data workers: told from the host program's own children, and ended only where Python would hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize

TERM_SECONDS = 1.0
"""How long workers may take to end by SIGTERM when Python exits. Those that are stopped or hang are then killed."""
KILL_SECONDS = 5.0
"""How long to wait for killed workers."""


class WorkerProcess(multiprocessing.Process):
    """A process of one of Eyas's loaders. Its class tells it from the host program's own children."""

    def start(self) -> None:
        """Start, and see to it that Python can exit while this process runs."""
        super().start()
        _end_workers_at_exit(os.getpid())


class WorkerContext(BaseContext):
    """The start method that Python uses by default, with `WorkerProcess` as its process."""

    Process = WorkerProcess

    def get_context(self, method: str | None = None) -> BaseContext:  # type: ignore[override]  # one overload for all
        return multiprocessing.get_context(method)


def running(processes: Collection[int]) -> list[WorkerProcess]:
    """The running workers among these process ids. An id that now belongs to another process is left out."""
    return [child for child in active_children() if isinstance(child, WorkerProcess) and child.pid in processes]


def kill(workers: Sequence[WorkerProcess]) -> None:
    """Kill workers and wait for their end."""
    with _unheard_deaths():
        for worker in workers:
            worker.kill()
        _wait(workers, KILL_SECONDS, lambda _: None)


@cache
def _end_workers_at_exit(_: int) -> Finalize:
    """Have Python end this process's workers at exit, before it joins its children: once for each process id.

    A loader that is still alive then, as in a traceback, has workers that wait for more. Python sends each one SIGTERM
    and joins it; but a worker lives through its first SIGTERM, see `leave_signals_to_parent`, and a stopped one never
    gets any.
    """
    return Finalize(None, _end_workers, exitpriority=0)


def _end_workers() -> None:
    workers = [child for child in active_children() if isinstance(child, WorkerProcess)]
    with _unheard_deaths():
        _wait(workers, TERM_SECONDS, WorkerProcess.terminate)
    kill([worker for worker in workers if worker.is_alive()])


def _wait(workers: Sequence[WorkerProcess], seconds: float, ask: Callable[[WorkerProcess], None]) -> None:
    """Wait for the end of workers, asking those that are left again and again."""
    end = time.monotonic() + seconds
    while (left := [worker for worker in workers if worker.is_alive()]) and time.monotonic() < end:
        for worker in left:
            ask(worker)
        time.sleep(0.02)


@contextmanager
def _unheard_deaths() -> Iterator[None]:
    """Inside, PyTorch does not hear that workers die: its handler would raise an error in the middle of anything."""
    before = signal.getsignal(signal.SIGCHLD)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
