"""Worker processes that decode images: one that dies or hangs is told of with the image that it had in hand."""

from __future__ import annotations

import atexit
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from typing import Protocol, TypedDict, TypeVar, runtime_checkable

import torch
from torch.utils.data import get_worker_info

from eyas.data.formats.records import DataSource
from eyas.tools.signals import leave_signals_to_parent
from eyas.types import EyasError, Record

DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
PATIENCE = 5.0
"""Seconds to wait for workers that were killed."""
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


Batch = TypeVar("Batch")


class WorkerProgress:
    """What each worker of a loader has in hand, in memory that it shares with the process that waits for it.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        # Of each worker: its process id, the index of its last record, and whether it is still at it.
        self._table = torch.full((workers, 3), -1, dtype=torch.int64).share_memory_()

    def enter(self, worker: int) -> None:
        """This process is the worker of that number, and has had nothing yet."""
        self._table[worker] = torch.tensor([os.getpid(), -1, 0])

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Inside, this worker has the record of an index in hand. Does nothing in a process that is no worker."""
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
        """The records that workers had last, by their process ids."""
        return [index for process, index, _ in self._table.tolist() if process in processes and index >= 0]

    def now(self) -> list[int]:
        """The records that workers have in hand."""
        return [index for _, index, busy in self._table.tolist() if busy == 1]


class WorkerOptions(TypedDict):
    """What a DataLoader is told of its workers."""

    num_workers: int
    timeout: float
    worker_init_fn: Callable[[int], None]


def worker_options(workers: int, timeout: float) -> WorkerOptions:
    """Of so many workers, which are taken to hang after so many seconds without a batch; 0 waits for ever."""
    # Without workers there is nothing to wait for, and PyTorch refuses a timeout.
    return {
        "num_workers": workers,
        "timeout": timeout if workers else 0,
        "worker_init_fn": _begin,
    }


def _begin(worker: int) -> None:
    leave_signals_to_parent(worker)
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, TracksWorkers):
        info.dataset.worker_progress.enter(worker)


class _Watch(threading.Thread):
    """Ends the workers of a loader when the main thread has waited for them for too long.

    PyTorch's own timeout ends while it waits in the queue for a batch; the pixels then come over a connection to the
    worker, and a process that has stopped altogether never answers there.
    """

    def __init__(self, worker_progress: WorkerProgress, seconds: float) -> None:
        super().__init__(name="data workers", daemon=True)
        self._held, self._limit = worker_progress, 1.25 * seconds + 1  # PyTorch's timeout first
        self._over = threading.Event()
        self.since: float | None = None
        """When the main thread began to wait; None where it does not."""
        self.fired = False

    def run(self) -> None:
        """Look at the time, until `stop`."""
        while not self._over.wait(min(1.0, self._limit / 4)):
            since = self.since
            if since is not None and time.monotonic() - since > self._limit:
                self.fired = True
                _end(self._held.processes())  # which wakes the main thread
                return

    def stop(self) -> None:
        """The loader is at its end."""
        self._over.set()


def with_timeout(batches: Iterable[Batch], loader: object) -> Iterator[Batch]:
    """The batches. Whatever comes of a worker that dies or hangs meanwhile is PyTorch's own RuntimeError.

    Args:
        batches: of the loader, or what it was prepared to, or the rest of them.
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
        watch.stop()


def _ended(worker_progress: WorkerProgress) -> list[int]:
    """The workers that are no more, for which it waits a moment: connections are closed before a process ends."""
    end = time.monotonic() + 1
    while True:
        alive = {child.pid for child in active_children()}
        dead = [process for process in worker_progress.processes() if process not in alive]
        if dead or time.monotonic() > end:
            return dead
        time.sleep(0.02)


@runtime_checkable
class TracksWorkers(Protocol):
    """A data set whose workers can be told of."""

    source: DataSource
    worker_progress: WorkerProgress


@contextmanager
def name_failed_images(loader: object) -> Iterator[None]:
    """Inside, a data worker of a loader that dies or hangs is an `EyasError` that names the images it had in hand.

    PyTorch tells of a dead one wherever the main thread is just then, not in the loader alone: the error of another
    loader's passes, for whoever has that loader around this one.
    """
    try:
        yield
    except RuntimeError as error:
        dataset = getattr(loader, "dataset", None)
        said = None
        if isinstance(dataset, TracksWorkers):
            said = _of_dead(str(error), dataset) or _of_hung(str(error), dataset)
        if said is None:
            raise
        raise EyasError(said) from error


def safe_batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, for a loop that only reads: `name_failed_images` and `with_timeout` in one."""
    with name_failed_images(loader):
        yield from with_timeout(loader, loader)


def _of_dead(error: str, dataset: TracksWorkers) -> str | None:
    """What to tell the user of an error of PyTorch's loader; None where no worker of this data set has ended."""
    found = DEAD.search(error)
    dead = [int(number) for number in found[1].split(",")] if found else []
    if found is None or not set(dead) & set(dataset.worker_progress.processes()):
        return None
    images = dataset.worker_progress.last(dead)
    return (
        f"a data worker {found[2].strip(' .')}; its last image was {_named(images, dataset.source.records)}. If that "
        "one can be decoded, memory may have run out: lower --dataset.workers or --dataset.batch_size. The last "
        "checkpoint is intact"
    )


def _of_hung(error: str, dataset: TracksWorkers) -> str | None:
    """The same of workers that hang; they are ended, or the command would wait for them when it ends itself."""
    if (found := HUNG.search(error)) is None:
        return None
    worker_progress, records = dataset.worker_progress, dataset.source.records
    now, last = worker_progress.now(), worker_progress.last(worker_progress.processes())
    what = f"in hand they have {_named(now, records)}" if now else f"the last they had were {_named(last, records)}"
    _end(worker_progress.processes())
    return (
        f"the data workers gave no batch for {float(found[1]):g} s; {what}. Look at that file and the disk it is on, "
        "or raise --dataset.worker_timeout; the last checkpoint is intact"
    )


def _end(processes: list[int]) -> None:
    """Kill workers. PyTorch would raise an error of its own, in the middle of anything, if it heard of their death."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main_thread else None
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while {child.pid for child in active_children()} & set(processes) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGCHLD, before)


@atexit.register
def _end_all() -> None:
    """Kill what workers there are when Python ends, as after an error whose traceback keeps their loader alive.

    Python itself would send them one SIGTERM and wait, and that is the one they live through.
    """
    _end([child.pid for child in active_children() if child.daemon and child.pid is not None])


def _named(indices: list[int], records: tuple[Record, ...]) -> str:
    return ", ".join(f"{records[index].path} (image {records[index].image_id})" for index in indices) or "none"
