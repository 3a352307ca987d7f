"""Record the arguments and the result of one step inside a library's forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Call:
    """The last recorded call of a step.

    Attributes:
        arguments: positional arguments; empty until the step is called.
        result: the value it returned.
    """

    arguments: tuple[Any, ...] = ()
    result: Any = None


@contextmanager
def record_call(owner: nn.Module, name: str) -> Iterator[Call]:
    """Records the calls of ``owner.name``, a submodule, a method or any other callable, inside the context.

    The step computes the same, and the owner is as before afterwards. A submodule is observed by a forward hook.
    torchvision matches and samples in methods, which have no hooks, so a wrapper replaces the method on this one
    object. Two threads must not record on one network.
    """
    step, call = getattr(owner, name), Call()

    def keep(_: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        call.arguments, call.result = arguments, result

    if isinstance(step, nn.Module):
        handle = step.register_forward_hook(keep)
        try:
            yield call
        finally:
            handle.remove()
        return

    def wrapper(*arguments: Any) -> Any:
        call.arguments, call.result = arguments, step(*arguments)
        return call.result

    attributes = vars(owner)
    is_method = name not in attributes
    attributes[name] = wrapper
    try:
        yield call
    finally:
        if is_method:
            del attributes[name]
        else:
            attributes[name] = step
