"""A thread's signal stack is after the context what it was before."""

from __future__ import annotations

import ctypes
import sys

import pytest

from eyas.tools.signal_stack import _sigaltstack, _Stack, kept_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no sigaltstack(2) of Linux")
SIZE = 2**16


def now() -> tuple[int | None, int, int]:
    stack = _Stack()
    _sigaltstack(None, ctypes.byref(stack))
    return stack.start, stack.flags, stack.size


@pytest.mark.parametrize("fails", [False, True])
def test_the_stack_is_kept(fails: bool) -> None:
    before, memory = now(), ctypes.create_string_buffer(SIZE)
    other = _Stack(ctypes.addressof(memory), 0, SIZE)
    try:
        with kept_signal_stack():
            _sigaltstack(ctypes.byref(other), None)
            assert now() == (ctypes.addressof(memory), 0, SIZE)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert now() == before


def test_an_impossible_stack_is_an_error() -> None:
    with pytest.raises(OSError, match="memory"):
        _sigaltstack(ctypes.byref(_Stack(None, 0, 1)), None)
