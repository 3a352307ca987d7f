"""Standard output that cannot be written: a pipe that its reader has closed, a full disk, a terminal that is gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import TextIOWrapper
from typing import Any, TextIO, cast

from eyas.tools.tables import visible


def prepare_streams() -> None:
    """Make the standard streams of a command take whatever it prints.

    A stream that the command was started without leads nowhere: else the next file that is opened takes its number, and
    what a library prints lands in that file. A character that the encoding of a stream lacks is printed as its code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def ended_by_reader() -> Iterator[None]:
    """In the context, a reader that closes standard output's pipe, as `head` does, ends the command without an error.

    Raises:
        SystemExit: the output cannot be written: status 1, Python's own, where the reader has gone, and 2 with a
            message where the disk is full.
    """
    try:
        yield
        print(end="", flush=True)  # what is still in the buffer meets the closed pipe here, not at Python's exit
    except OSError as error:
        try:
            print(flush=True)
        except OSError as own:
            if not isinstance(own, BrokenPipeError):
                say_error(f"standard output cannot be written ({own.strerror}); free some space, or send it elsewhere")
            _fall_silent(sys.stdout)  # for the flush at Python's exit
            raise SystemExit(1 if isinstance(own, BrokenPipeError) else 2) from None
        raise error  # of another file, such as a tracker's pipe
    except BaseException:  # which has its own message and status
        _flush(sys.stdout)
        raise


@contextmanager
def outlasting_reader() -> Iterator[None]:
    """In the context, standard output falls silent when it can no longer be written, and the work goes on."""
    if sys.stdout is None:
        yield
        return
    lasting = _Lasting(sys.stdout)
    with redirect_stdout(cast(TextIO, lasting)):
        try:
            yield
        finally:
            lasting.flush()


def say_error(text: str) -> None:
    """Print the one message of a command that fails; nothing where standard error cannot be written either."""
    with suppress(OSError):
        print(f"eyas: {visible(text)}", file=sys.stderr, flush=True)


class _Lasting:
    """A stream whose first failed write is its last one; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _fall_silent(self._stream)
            return len(text)

    def flush(self) -> None:
        _flush(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _flush(stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        _fall_silent(stream)


def _fall_silent(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
