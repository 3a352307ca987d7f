"""Worker processes that decode images: how they start, what they are decoding, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import get_worker_info

from eyas.data.formats.records import DataSource
from eyas.tools.children import die, when_parent_ends
from eyas.tools.shortage import SHORTAGES, shortage
from eyas.tools.signals import leave_signals_to_parent

TERM_SECONDS = 1.0
"""Seconds that workers have to end on SIGTERM when Python exits; any that are stopped or hang are then killed."""
KILL_SECONDS = 5.0
"""Seconds to wait for killed workers."""


class WorkerProcess(multiprocessing.Process):
    """A process of one of Eyas's loaders. Its class distinguishes it from the host program's own children."""

    def start(self) -> None:
        """Start, and make sure that Python can exit while this process runs."""
        super().start()
        _end_workers_at_exit(os.getpid())


class WorkerContext(BaseContext):
    """The start method that Python uses by default, with `WorkerProcess` as its process."""

    Process = WorkerProcess

    def get_context(self, method: str | None = None) -> BaseContext:  # type: ignore[override]  # one overload for all
        return multiprocessing.get_context(method)


class WorkerProgress:
    """What each worker of a loader is decoding, in memory that it shares with the process that waits for it.

    Attributes:
        timeout: seconds without a batch after which the workers count as hung; 0: never.
    """

    def __init__(self, workers: int, timeout: float = 0.0) -> None:
        # One row a worker: its process id, the index of its last record, whether it is still decoding that one, and
        # what it ran out of.
        self._table = torch.full((workers, 4), -1, dtype=torch.int64).share_memory_()
        self.timeout, self.watched = timeout, False

    def enter(self, worker: int) -> None:
        """Register this process as the worker with that number."""
        self._table[worker] = torch.tensor([os.getpid(), -1, 0, -1])

    def lacks(self, worker: int, what: str) -> None:
        """Record which of `SHORTAGES` keeps the worker with that number from handing over its batch."""
        self._table[worker, 3] = SHORTAGES.index(what)

    def shortage(self, processes: list[int]) -> str | None:
        """The first of `SHORTAGES` that these workers recorded."""
        rows = self._table.tolist()
        return next((SHORTAGES[lack] for process, *_, lack in rows if process in processes and lack >= 0), None)

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Within the context, this worker is decoding the record at ``index``. No effect outside a worker."""
        info = get_worker_info()
        if info is None:
            yield
            return
        row = self._table[info.id]
        row[1], row[2] = index, 1
        try:
            yield
        finally:
            row[2] = 0

    def processes(self) -> list[int]:
        """The process ids of the workers that have started."""
        return [process for process, *_ in self._table.tolist() if process >= 0]

    def last(self, processes: list[int]) -> list[int]:
        """The last record of each of these workers, by process id."""
        return [index for process, index, *_ in self._table.tolist() if process in processes and index >= 0]

    def now(self) -> list[int]:
        """The records that workers are decoding."""
        return [index for _, index, busy, _ in self._table.tolist() if busy == 1]


@runtime_checkable
class TracksWorkers(Protocol):
    """A data set that knows what its workers are decoding."""

    source: DataSource
    worker_progress: WorkerProgress


def worker_options(workers: int) -> dict[str, Any]:
    """A DataLoader's arguments for its workers. It has no timeout of its own: `with_timeout` watches them."""
    # Without workers PyTorch refuses a context.
    return {
        "num_workers": workers,
        "worker_init_fn": _begin,
        "multiprocessing_context": WorkerContext() if workers else None,
    }


def _begin(worker: int) -> None:
    leave_signals_to_parent(worker)
    when_parent_ends(die)
    # Batches are handed over by two threads of multiprocessing; the first calls a hook of the queue, the second sys's.
    Queue._on_queue_feeder_error = staticmethod(_not_handed_over)  # type: ignore[attr-defined]
    sys.excepthook = lambda _, error, __: _not_handed_over(error, None)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, TracksWorkers):
        info.dataset.worker_progress.enter(worker)


def _not_handed_over(error: BaseException, _: object) -> None:
    """End this worker if its batch could not be handed over because something has run out: it would never come.

    Otherwise print a traceback, unless the reader of the batch has gone: when another worker dies, it stops halfway.
    """
    info, what = get_worker_info(), shortage(error)
    if what is not None and info is not None and isinstance(info.dataset, TracksWorkers):
        info.dataset.worker_progress.lacks(info.id, what)
        os._exit(1)
    if not isinstance(error, ConnectionError):
        traceback.print_exception(error)


def ended_workers(worker_progress: WorkerProgress) -> list[int]:
    """The process ids of workers that have ended. Waits up to 1 s: a dying process closes its connections first."""
    end = time.monotonic() + 1
    while True:
        alive = {child.pid for child in active_children()}
        dead = [process for process in worker_progress.processes() if process not in alive]
        if dead or time.monotonic() > end:
            return dead
        time.sleep(0.02)


def kill_workers(processes: Collection[int]) -> None:
    """Kill the workers among these process ids and wait for their end. Another process's id is left alone."""
    _kill([child for child in active_children() if isinstance(child, WorkerProcess) and child.pid in processes])


def _kill(workers: Sequence[WorkerProcess]) -> None:
    with _unheard_deaths():
        for worker in workers:
            worker.kill()
        _wait(workers, KILL_SECONDS, lambda _: None)


@cache
def _end_workers_at_exit(_: int) -> Finalize:
    """Have Python end this process's workers at exit, before it joins its children: once for each process id.

    A loader that is still alive then, such as one in a traceback, has workers that wait for more. Python sends each one
    SIGTERM and joins it; but a worker survives its first SIGTERM, see `leave_signals_to_parent`, and a stopped one
    never handles any.
    """
    return Finalize(None, _end_workers, exitpriority=0)


def _end_workers() -> None:
    workers = [child for child in active_children() if isinstance(child, WorkerProcess)]
    with _unheard_deaths():
        _wait(workers, TERM_SECONDS, WorkerProcess.terminate)
    _kill([worker for worker in workers if worker.is_alive()])


def _wait(workers: Sequence[WorkerProcess], seconds: float, ask: Callable[[WorkerProcess], None]) -> None:
    """Wait for workers to end, asking the remaining ones repeatedly."""
    end = time.monotonic() + seconds
    while (left := [worker for worker in workers if worker.is_alive()]) and time.monotonic() < end:
        for worker in left:
            ask(worker)
        time.sleep(0.02)


@contextmanager
def _unheard_deaths() -> Iterator[None]:
    """In the context, PyTorch ignores dying workers: its handler could raise an error at any point."""
    before = signal.getsignal(signal.SIGCHLD)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
