"""Memory and open files of a command and its children, from /proc (Linux), and limits on this process."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

MIB = 1024**2
ROOT = Path(__file__).parents[1]
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""Errors of reading about a process that has just ended."""


@dataclass(frozen=True)
class Process:
    """One process at one time.

    Attributes:
        pid: its id.
        resident: bytes in memory, including mapped files and shared memory.
        own: bytes of anonymous memory.
        files: open file descriptors.
    """

    pid: int
    resident: int
    own: int
    files: int


@dataclass(frozen=True)
class Sample:
    """A command at one time.

    Attributes:
        step: the last one logged.
        main: the command itself.
        children: its descendants.
    """

    step: int
    main: Process
    children: tuple[Process, ...]


def look_at(pid: int) -> Process:
    """The process with an id. Raises one of `GONE` if there is none."""
    folder = Path(f"/proc/{pid}")
    lines = [line.split() for line in (folder / "status").read_text().splitlines()]
    kib = {line[0]: int(line[1]) for line in lines if line[0] in ("VmRSS:", "RssAnon:")}
    if not kib:
        raise ProcessLookupError(pid)  # a zombie
    return Process(pid, kib["VmRSS:"] * 1024, kib["RssAnon:"] * 1024, len(list((folder / "fd").iterdir())))


def descendants(pid: int) -> list[int]:
    """The process ids of all descendants."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(*GONE):
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found + [further for child in found for further in _safe_descendants(child)]


def _safe_descendants(pid: int) -> list[int]:
    with suppress(*GONE):
        return descendants(pid)
    return []


def sample(pid: int, step: int) -> Sample | None:
    """A command and its descendants now; None if it has ended."""
    try:
        main, numbers = look_at(pid), descendants(pid)
    except GONE:
        return None
    children = []
    for number in numbers:
        with suppress(*GONE):
            children.append(look_at(number))
    return Sample(step, main, tuple(children))


@contextmanager
def command(
    arguments: Sequence[str], said: Path, program: Sequence[str] = ("eyas",)
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `eyas` with these arguments as a process that ends with the context. Its output goes to ``said``.

    ``program`` is a module and its first arguments; modules of this package are found from any folder.
    """
    with said.open("wb") as file:
        whole = [sys.executable, "-m", *program, *arguments]
        running = subprocess.Popen(whole, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[bytes], limit: float = 300) -> None:
    """Wait until a condition holds. Raises TimeoutError, or ChildProcessError if the command ends before."""
    end = time.monotonic() + limit
    while not condition():
        if running.poll() is not None:
            raise ChildProcessError(f"the command ended with {running.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not hold within {limit} s")
        time.sleep(0.05)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside after some seconds. Main thread only."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_mib() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
