"""`eyas`, slowed where it writes, and telling what it does: what those start in place of it who mean to kill it.

    python -m faults.announced FILE DELAY ARGUMENTS OF EYAS

Each line of FILE is a time, in seconds, and what was begun then: "loading", "filling", "training", "evaluation",
"saving NAME" of a file; or what has just happened: "step N", "signal". A file that is to be written whole or not at all
is written in pieces, and a record of the teacher cache and its line of the index in halves, with DELAY seconds between
them; and as many pass before and after the file gets its name. Nothing else differs from `python -m eyas`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, cast

import eyas.tools.files
from eyas.__main__ import main
from eyas.cache.fill import CacheFiller
from eyas.cache.shards import ShardWriter
from eyas.tools.signals import StopRequest
from eyas.training.state import TrainState
from eyas.training.trainer import Trainer

PIECES = 8


class Announcer:
    """Appends lines to the file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._phases = ["loading"]
        self.say("loading")

    def say(self, what: str) -> None:
        """One line, in one write."""
        os.write(self._file, f"{time.monotonic():.3f} {what}\n".encode())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, this is what is done."""
        self._phases.append(name)
        self.say(name)
        try:
            yield
        finally:
            self._phases.pop()
            self.say(self._phases[-1])


class InHalves:
    """A file whose every write is torn for a while."""

    def __init__(self, file: BinaryIO, delay: float) -> None:
        self._file, self._delay = file, delay

    def write(self, content: bytes) -> None:
        middle = len(content) // 2
        self._file.write(content[:middle])
        self._file.flush()
        time.sleep(self._delay)
        self._file.write(content[middle:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def announce(announcer: Announcer, owner: type, method: str, phase: str) -> None:
    """Announce a phase around a method."""
    function = getattr(owner, method)

    @wraps(function)
    def within(*arguments: Any, **more: Any) -> Any:
        with announcer.phase(phase):
            return function(*arguments, **more)

    setattr(owner, method, within)


def after(owner: type, method: str, act: Callable[[Any], None]) -> None:
    """Do something with the object after a method of it."""
    function = getattr(owner, method)

    @wraps(function)
    def followed(self: Any, *arguments: Any, **more: Any) -> Any:
        result = function(self, *arguments, **more)
        act(self)
        return result

    setattr(owner, method, followed)


def slow_files(announcer: Announcer, delay: float) -> None:
    """Announce and slow down each file that is written whole or not at all, in all modules that write one."""
    write_atomic, fsync = eyas.tools.files.write_atomic, os.fsync

    def in_pieces(part: Path) -> None:
        content = part.read_bytes()
        size = -(-len(content) // PIECES) or 1
        with part.open("wb") as file:
            for at in range(0, len(content), size):
                file.write(content[at : at + size])
                file.flush()
                time.sleep(delay)

    def slow(path: Path, write: Callable[[Path], Any]) -> None:
        with announcer.phase(f"saving {path.name}"):
            write_atomic(path, lambda part: (write(part), in_pieces(part)))
            time.sleep(delay)

    def slow_fsync(file: int) -> None:
        time.sleep(delay)
        fsync(file)

    os.fsync = slow_fsync
    for name, module in list(sys.modules.items()):
        if name.startswith("eyas.") and vars(module).get("write_atomic") is write_atomic:
            cast(Any, module).write_atomic = slow


def slow_shards(delay: float) -> None:
    """Tear each record of the teacher cache, and its line of the index, for a while."""
    create = ShardWriter._create

    def slow(self: ShardWriter) -> tuple[InHalves, InHalves]:
        data, index = create(self)
        return InHalves(data, delay), InHalves(index, delay)

    cast(Any, ShardWriter)._create = slow


def run(path: Path, delay: float, arguments: list[str]) -> int:
    """`eyas` with these arguments; its exit status."""
    announcer = Announcer(path)
    announce(announcer, CacheFiller, "run", "filling")
    announce(announcer, Trainer, "train_epoch", "training")
    announce(announcer, Trainer, "evaluate", "evaluation")
    after(TrainState, "finish_step", lambda state: announcer.say(f"step {state.step}"))
    after(StopRequest, "__call__", lambda _: announcer.say("signal"))
    slow_files(announcer, delay)
    slow_shards(delay)
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
