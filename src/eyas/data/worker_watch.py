"""Waiting for data workers: a dead or hung one is reported with the image it was decoding."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from eyas.data.workers import TracksWorkers, WorkerProgress, ended_workers, kill_workers
from eyas.types import EyasError, Record

DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
HUNG = re.compile(r"DataLoader timed out after ([\d.]+) seconds")
"""PyTorch's messages."""

Batch = TypeVar("Batch")


class RunningTime:
    """Seconds that this process has run. A pause between two readings is one in which it was suspended.

    Args:
        longest: the seconds that such a pause counts.
        clock: seconds from any origin.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest, self._clock = longest, clock
        self._read, self.seconds = clock(), 0.0

    def read(self) -> float:
        """The seconds until now."""
        now = self._clock()
        self.seconds += min(now - self._read, self._longest)
        self._read = now
        return self.seconds


class _Watch(threading.Thread):
    """Kills the workers of a loader when the main thread has waited for a batch for too long.

    PyTorch's own timeout covers only the wait in the queue. The pixels then come over a connection to the worker, where
    a stopped process never answers. It also counts the time in which all processes were suspended.
    """

    def __init__(self, worker_progress: WorkerProgress) -> None:
        super().__init__(name="data workers", daemon=True)
        self._progress, self._limit = worker_progress, worker_progress.timeout
        self._tick = min(1.0, self._limit / 4)
        self._time = RunningTime(2 * self._tick)
        self.over = threading.Event()
        self._since: float | None = None
        """When the main thread began to wait; None while it does not wait."""
        self.fired = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the context, the main thread waits for a batch."""
        self._since = self._time.seconds
        try:
            yield
        finally:
            self._since = None

    def run(self) -> None:
        """Check the time, until ``over``."""
        while not self.over.wait(self._tick):
            now, since = self._time.read(), self._since
            if since is not None and now - since > self._limit:
                self.fired = True
                kill_workers(self._progress.processes())  # which wakes the main thread
                return


def with_timeout(batches: Iterable[Batch], loader: object) -> Iterator[Batch]:
    """The batches. A worker that dies or hangs raises PyTorch's own RuntimeError, also where PyTorch would wait.

    Args:
        batches: of the loader or its prepared form; all of them or the rest.
        loader: a DataLoader whose data set tracks its workers. Batches of any other loader pass unchanged.
    """
    dataset = getattr(loader, "dataset", None)
    progress = dataset.worker_progress if isinstance(dataset, TracksWorkers) else None
    if progress is None or progress.watched or not getattr(loader, "num_workers", 0):
        yield from batches
        return
    watch, iterator = _Watch(progress), iter(batches)
    if progress.timeout:
        watch.start()
    progress.watched = True
    try:
        while True:
            try:
                with watch.waiting():
                    batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                if watch.fired:
                    raise RuntimeError(f"DataLoader timed out after {progress.timeout:g} seconds") from error
                if isinstance(error, OSError | EOFError) and (dead := ended_workers(progress)):
                    # It ended while its batch was fetched.
                    numbers = ", ".join(map(str, dead))
                    raise RuntimeError(f"DataLoader worker (pid(s) {numbers}) exited unexpectedly") from error
                raise
            yield batch
    finally:
        progress.watched = False
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
        if (what := progress.shortage(dead)) is not None:
            return what
        return (
            f"a data worker {found[2].strip(' .')}; its last image was {_named(progress.last(dead), records)}. If that "
            "one can be decoded, memory may have run out: lower --dataset.workers or --dataset.batch_size"
        )
    if (found := HUNG.search(error)) is None:
        return None
    now, last = progress.now(), progress.last(progress.processes())
    images = f"they are decoding {_named(now, records)}" if now else f"their last images were {_named(last, records)}"
    kill_workers(progress.processes())  # otherwise the command would wait for them at its end
    return (
        f"the data workers gave no batch for {float(found[1]):g} s; {images}. Look at that file and the disk it is on, "
        "or raise --dataset.worker_timeout"
    )


def _named(indices: list[int], records: Sequence[Record]) -> str:
    return ", ".join(f"{records[index].path} (image {records[index].image_id})" for index in indices) or "none"
