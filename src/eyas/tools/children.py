"""Child processes that end with their parent, however the parent ends.

A child looks up the process id of its parent every second. When the parent is gone, a command gets SIGTERM, on which a
training saves after its step; if it still runs `GRACE` seconds later, it is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

PARENT = "EYAS_PARENT"
"""Environment variable of a child: the process id of its parent."""
PARENT_POLL = 1.0
"""Seconds between two looks at the parent's process id."""
GRACE = 30.0
"""Seconds that a command has to end by itself when its parent is gone."""
SAVING = 120.0
"""Seconds that children have to end the current step and save, when their parent is interrupted or terminated."""

Children = Sequence[subprocess.Popen[bytes]]


def start_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start an `eyas` command that ends with this process; see `end_with_parent`."""
    own = {**environment, PARENT: str(os.getpid())}
    return subprocess.Popen(command, env=own, stdout=stdout, stderr=stderr)


def end_with_parent() -> bool:
    """Make a process that `start_child` started end with its parent. Returns whether this is one."""
    number = os.environ.pop(PARENT, "")  # not for this process's own children
    if number.isdecimal():
        when_parent_ends(_stop_or_die, int(number))
    return number.isdecimal()


def how_it_ended(status: int) -> str:
    """The end of a child, by its return code: ``ended with status 2``, ``was ended by SIGKILL; ...``."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    if -status != signal.SIGKILL:
        return f"was ended by {name}"
    memory = "memory has probably run out: lower --dataset.batch_size or --dataset.workers"
    return f"was ended by {name}; if nobody sent that, {memory}"


def when_parent_ends(act: Callable[[], None], parent: int | None = None) -> None:
    """Call a function in a thread of its own when this process's parent, or the process of that id, is gone."""
    number = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == number:
            time.sleep(PARENT_POLL)
        act()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def die() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_all(children: Children, patience: float) -> None:
    """Wait until all have ended, at most ``patience`` seconds."""
    deadline = time.monotonic() + patience
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(deadline - time.monotonic(), 0))


def end_all(children: Children, patience: float) -> None:
    """Terminate all, and kill those that still run after ``patience`` seconds."""
    for child in children:
        child.terminate()
    wait_for_all(children, patience)
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()


def _stop_or_die() -> None:
    # To the main thread, where the signal interrupts a system call.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(GRACE)
    die()
