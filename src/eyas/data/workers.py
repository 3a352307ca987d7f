"""Worker processes that decode images: one that dies or hangs is told of with the image that it had in hand."""

from __future__ import annotations

import atexit
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from typing import Protocol, TypedDict, runtime_checkable

import torch
from torch.utils.data import get_worker_info

from eyas.data.record import DataSource
from eyas.stopping import leave_signals_to_parent
from eyas.types import EyasError, Record

DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
PATIENCE = 5.0
"""Seconds to wait for workers that were killed."""
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")


class Held:
    """What each worker of a loader has in hand, in memory that it shares with the process that waits for it.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        # Of each worker: its process id, the index of its last record, and whether it is still at it.
        self._table = torch.full((workers, 3), -1, dtype=torch.int64).share_memory_()

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Inside, this worker has the record of an index in hand. Does nothing in a process that is no worker."""
        info = get_worker_info()
        if info is None:
            yield
            return
        row = self._table[info.id]
        row[0], row[1], row[2] = os.getpid(), index, 1
        try:
            yield
        finally:
            row[2] = 0

    def processes(self) -> list[int]:
        """The process ids of the workers that have had a record."""
        return [process for process, _, _ in self._table.tolist() if process >= 0]

    def last(self, processes: list[int]) -> list[int]:
        """The records that workers had last, by their process ids."""
        return [index for process, index, _ in self._table.tolist() if process in processes]

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
        "worker_init_fn": leave_signals_to_parent,
    }


@runtime_checkable
class Watched(Protocol):
    """A data set whose workers can be told of."""

    source: DataSource
    held: Held


@contextmanager
def workers_told(loader: object) -> Iterator[None]:
    """Inside, a data worker of a loader that dies or hangs is an `EyasError` that names the images it had in hand.

    PyTorch tells of a dead one wherever the main thread is just then, not in the loader alone.
    """
    try:
        yield
    except RuntimeError as error:
        dataset = getattr(loader, "dataset", None)
        said = None
        if isinstance(dataset, Watched):
            said = _of_dead(str(error), dataset) or _of_hung(str(error), dataset)
        if said is None:
            raise
        raise EyasError(said) from error


def _of_dead(error: str, dataset: Watched) -> str | None:
    """What to tell the user of an error of PyTorch's loader; None where it tells of no worker that has ended."""
    if (found := DEAD.search(error)) is None:
        return None
    images = dataset.held.last([int(number) for number in found[1].split(",")])
    return (
        f"a data worker {found[2].strip(' .')}; its last image was {_named(images, dataset.source.records)}. If that "
        "one can be decoded, memory may have run out: lower --dataset.workers or --dataset.batch_size. The last "
        "checkpoint is intact"
    )


def _of_hung(error: str, dataset: Watched) -> str | None:
    """The same of workers that hang; they are ended, or the command would wait for them when it ends itself."""
    if (found := HUNG.search(error)) is None:
        return None
    held, records = dataset.held, dataset.source.records
    now, last = held.now(), held.last(held.processes())
    what = f"in hand they have {_named(now, records)}" if now else f"the last they had were {_named(last, records)}"
    _end(held.processes())
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
