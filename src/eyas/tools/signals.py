"""SIGINT (Ctrl-C), SIGTERM (`kill`, or a scheduler at its time limit) and SIGHUP (a terminal that is closed).

On each of them a training saves after its step and exits. Outside the epochs of a training, and in its evaluations,
they end a command at once, by an exception, so that contexts clean up.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

SAME_SIGNAL_SECONDS = 2.0
"""Seconds after a first signal during which another counts as the same one: a terminal signals all processes of a
command, and their launcher passes its signal on."""
TERMINATIONS = (signal.SIGTERM, signal.SIGHUP)
STOPS = (signal.SIGINT, *TERMINATIONS)
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal ended the command; an empty message stands for the default one.

    Attributes:
        status: exit status by the shells' convention, 130 for Ctrl-C.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequest:
    """A signal handler that remembers the request to stop.

    Attributes:
        number: the first signal received; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._immediate = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. Raises Stopped inside `stop_immediately`, and on a second signal."""
        again = self.number and time.monotonic() - self._since > SAME_SIGNAL_SECONDS
        if not self.number:
            self.number, self._since = number, time.monotonic()
        if self._immediate or again:
            raise Stopped(number)

    @contextmanager
    def stop_immediately(self) -> Iterator[None]:
        """Within the context, a signal raises Stopped at once; an earlier signal raises it on entry.

        Python drops an exception that is raised in a destructor or a callback, and the signal may come there. The end
        of the context then raises it.
        """
        self._immediate = True
        try:
            if self.number:
                raise Stopped(self.number)
            yield
            if self.number:
                raise Stopped(self.number)
        finally:
            self._immediate = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """In the context, a first signal only sets the request, and the code that reads it decides when to stop.

    A request still open at the end raises `Stopped`; a second signal raises it at once. Python handles signals in the
    main thread only: in other threads nothing changes.
    """
    with _handling(request := StopRequest()):
        yield request
    if request.number:
        raise Stopped(request.number)


@contextmanager
def stopped_by_termination() -> Iterator[None]:
    """In the context, SIGTERM and SIGHUP raise `Stopped`, as SIGINT raises KeyboardInterrupt: by default they skip
    cleanup."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(stop, *TERMINATIONS):
        yield


@contextmanager
def _handling(handler: Handler, *numbers: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as stack:
        for number in numbers or STOPS:
            before = signal.getsignal(number)
            if before is signal.SIG_IGN:
                continue  # nohup and shells ignore it for background jobs
            stack.callback(signal.signal, number, before)
            signal.signal(number, handler)
        yield


def leave_signals_to_parent(_: int) -> None:
    """Let a data worker survive a signal to all processes of a command, so that the current step gets its batch.

    A second SIGTERM, which its parent sends, ends the worker. Serves as ``worker_init_fn`` of a DataLoader.
    """

    def once(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)
