"""SIGINT (Ctrl-C) and SIGTERM (`kill`, or a scheduler whose time is up): a training saves after its step, and ends.

Outside the epochs of a training, and in its evaluations, both end a command at once, by an exception that cleans up
on its way.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

SAME_SIGNAL_SECONDS = 2.0
"""Seconds after a first signal in which another is the same one: a terminal sends it to all processes of a command, and
the one that started the others passes it on."""
STOPS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal has ended the command.

    Args:
        number: of the signal.
        said: what to tell the user, where there is more to say than that it has stopped.

    Attributes:
        status: exit status by the shells' convention, 130 for Ctrl-C.
    """

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__(said)
        self.status = 128 + number


class StopRequest:
    """Whether a signal has asked to stop.

    Attributes:
        number: of the signal that has; 0 while none has.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._at_once = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. Raises Stopped inside `stop_immediately`, and where one that asked before was not heeded."""
        if self._at_once or (self.number and time.monotonic() - self._since > SAME_SIGNAL_SECONDS):
            raise Stopped(number)
        if not self.number:
            self.number, self._since = number, time.monotonic()

    @contextmanager
    def stop_immediately(self) -> Iterator[None]:
        """Inside, a signal raises Stopped where it comes; at the start, if one has asked before."""
        self._at_once = True
        try:
            if self.number:
                raise Stopped(self.number)
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, a signal only asks to stop; whoever reads the request decides when. One that nobody has heeded raises
    `Stopped` at the end. Python has signals in the main thread alone: elsewhere nothing changes."""
    request = StopRequest()
    with _handling(request):
        yield request
    if request.number:
        raise Stopped(request.number)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises `Stopped`, as SIGINT raises KeyboardInterrupt; otherwise Python ends where it stands."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(stop, signal.SIGTERM):
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
                continue  # as nohup and a shell's background jobs want it
            stack.callback(signal.signal, number, before)
            signal.signal(number, handler)
        yield


def leave_signals_to_parent(_: int) -> None:
    """Let a data worker live through a signal to all processes of a command, so that the current step gets its batch.

    A second SIGTERM, which its parent sends, ends the worker. Serves as ``worker_init_fn`` of a DataLoader.
    """

    def once(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, once)
