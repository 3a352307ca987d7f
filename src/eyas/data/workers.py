"""Worker processes that decode images. A dead or hung worker is reported with the image it was decoding."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import get_worker_info

from eyas.data.formats.records import DataSource
from eyas.tools.signals import leave_signals_to_parent
from eyas.types import EyasError, Record

DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")
"""PyTorch's messages."""

TERM_SECONDS = 1.0
"""Seconds that workers have to end on SIGTERM when Python exits; any that are stopped or hang are then killed."""
KILL_SECONDS = 5.0
"""Seconds to wait for killed workers."""

Batch = TypeVar("Batch")


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
    """What each worker of a loader is decoding, in memory that it shares with the process that waits for it."""

    def __init__(self, workers: int) -> None:
        # One row a worker: its process id, the index of its last record, and whether it is still decoding that one.
        self._table = torch.full((workers, 3), -1, dtype=torch.int64).share_memory_()

    def enter(self, worker: int) -> None:
        """Register this process as the worker with that number."""
        self._table[worker] = torch.tensor([os.getpid(), -1, 0])

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
        return [process for process, _, _ in self._table.tolist() if process >= 0]

    def last(self, processes: list[int]) -> list[int]:
        """The last record of each of these workers, by process id."""
        return [index for process, index, _ in self._table.tolist() if process in processes and index >= 0]

    def now(self) -> list[int]:
        """The records that workers are decoding."""
        return [index for _, index, busy in self._table.tolist() if busy == 1]


@runtime_checkable
class TracksWorkers(Protocol):
    """A data set that knows what its workers are decoding."""

    source: DataSource
    worker_progress: WorkerProgress


def worker_options(workers: int, timeout: float) -> dict[str, Any]:
    """A DataLoader's arguments for workers that count as hung after ``timeout`` seconds without a batch; 0: never."""
    # Without workers PyTorch refuses a timeout and a context.
    return {
        "num_workers": workers,
        "timeout": timeout if workers else 0,
        "worker_init_fn": _begin,
        "multiprocessing_context": WorkerContext() if workers else None,
    }


def _begin(worker: int) -> None:
    leave_signals_to_parent(worker)
    sys.excepthook = _report_unless_disconnected  # multiprocessing's thread that hands batches over calls it
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, TracksWorkers):
        info.dataset.worker_progress.enter(worker)


def _report_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback, unless the reader of a batch has gone: when another worker dies, it stops reading halfway."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


class _Watch(threading.Thread):
    """Kills the workers of a loader when the main thread has waited for a batch for too long.

    PyTorch's own timeout covers only the wait in the queue. The pixels then come over a connection to the worker, where
    a stopped process never answers.
    """

    def __init__(self, worker_progress: WorkerProgress, seconds: float) -> None:
        super().__init__(name="data workers", daemon=True)
        self._progress, self._limit = worker_progress, 1.25 * seconds + 1  # PyTorch's timeout first
        self.over = threading.Event()
        self.since: float | None = None
        """When the main thread began to wait; None while it does not wait."""
        self.fired = False

    def run(self) -> None:
        """Check the time, until ``over``."""
        while not self.over.wait(min(1.0, self._limit / 4)):
            since = self.since
            if since is not None and time.monotonic() - since > self._limit:
                self.fired = True
                _kill(_running(self._progress.processes()))  # which wakes the main thread
                return


def with_timeout(batches: Iterable[Batch], loader: object) -> Iterator[Batch]:
    """The batches. A worker that dies or hangs raises PyTorch's own RuntimeError, also where PyTorch would wait.

    Args:
        batches: of the loader or its prepared form; all of them or the rest.
        loader: a DataLoader whose data set tracks its workers. Batches of any other loader pass unchanged.
    """
    dataset, seconds = getattr(loader, "dataset", None), float(getattr(loader, "timeout", 0))
    if not isinstance(dataset, TracksWorkers) or not getattr(loader, "num_workers", 0):
        yield from batches
        return
    watch = _Watch(dataset.worker_progress, seconds)
    if seconds:
        watch.start()
    iterator = iter(batches)
    try:
        while True:
            watch.since = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                if watch.fired:
                    raise RuntimeError(f"DataLoader timed out after {seconds:g} seconds") from error
                if isinstance(error, OSError | EOFError) and (dead := _ended(dataset.worker_progress)):
                    # It ended while its batch was fetched.
                    numbers = ", ".join(map(str, dead))
                    raise RuntimeError(f"DataLoader worker (pid(s) {numbers}) exited unexpectedly") from error
                raise
            watch.since = None
            yield batch
    finally:
        watch.over.set()


@contextmanager
def name_failed_images(loader: object) -> Iterator[None]:
    """In the context, a worker of this loader that dies or hangs raises an `EyasError` with the images it was decoding.

    PyTorch reports a dead worker wherever the main thread is, not only in the loader. So the error of another loader's
    worker passes through, to that loader's own ``name_failed_images`` further out.
    """
    try:
        yield
    except RuntimeError as error:
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, TracksWorkers) and (message := _explained(str(error), dataset)):
            raise EyasError(message) from error
        raise


def safe_batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, for a loop that only reads: `name_failed_images` and `with_timeout` in one."""
    with name_failed_images(loader):
        yield from with_timeout(loader, loader)


def _explained(error: str, dataset: TracksWorkers) -> str | None:
    """The message for an error of PyTorch's loader; None for another error, or one of another data set's workers."""
    progress, records = dataset.worker_progress, dataset.source.records
    found = DEAD.search(error)
    dead = [int(number) for number in found[1].split(",")] if found else []
    if found and set(dead) & set(progress.processes()):
        return (
            f"a data worker {found[2].strip(' .')}; its last image was {_named(progress.last(dead), records)}. If that "
            "one can be decoded, memory may have run out: lower --dataset.workers or --dataset.batch_size. The last "
            "checkpoint is intact"
        )
    if (found := HUNG.search(error)) is None:
        return None
    now, last = progress.now(), progress.last(progress.processes())
    images = f"they are decoding {_named(now, records)}" if now else f"their last images were {_named(last, records)}"
    _kill(_running(progress.processes()))  # otherwise the command would wait for them at its end
    return (
        f"the data workers gave no batch for {float(found[1]):g} s; {images}. Look at that file and the disk it is on, "
        "or raise --dataset.worker_timeout; the last checkpoint is intact"
    )


def _named(indices: list[int], records: tuple[Record, ...]) -> str:
    return ", ".join(f"{records[index].path} (image {records[index].image_id})" for index in indices) or "none"


def _ended(worker_progress: WorkerProgress) -> list[int]:
    """The process ids of workers that have ended. Waits up to 1 s: a dying process closes its connections first."""
    end = time.monotonic() + 1
    while True:
        alive = {child.pid for child in active_children()}
        dead = [process for process in worker_progress.processes() if process not in alive]
        if dead or time.monotonic() > end:
            return dead
        time.sleep(0.02)


def _running(processes: Collection[int]) -> list[WorkerProcess]:
    """The running workers among these process ids. An id that now belongs to another process is left out."""
    return [child for child in active_children() if isinstance(child, WorkerProcess) and child.pid in processes]


def _kill(workers: Sequence[WorkerProcess]) -> None:
    """Kill workers and wait for their end."""
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
