"""Record the arguments and the result of one step inside a library's forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Call:
    """The last recorded call of a step: its positional arguments, empty until the step is called, and its result."""

    arguments: tuple[Any, ...] = ()
    result: Any = None


@contextmanager
def record_call(owner: nn.Module, name: str) -> Iterator[Call]:
    """Records the calls of ``owner.name``, a submodule, a method or any other callable, inside the context.

    The step computes the same, and the owner is restored afterwards. torchvision matches and samples in methods, which
    have no hooks, so a wrapper replaces the step on this one object. Two threads must not record on one network.
    """
    step, call, attributes = getattr(owner, name), Call(), vars(owner)
    hidden = name not in attributes  # a method or a submodule, which an attribute hides

    def wrapper(*arguments: Any) -> Any:
        call.arguments, call.result = arguments, step(*arguments)
        return call.result

    attributes[name] = wrapper
    try:
        yield call
    finally:
        if hidden:
            del attributes[name]
        else:
            attributes[name] = step
