"""Keep what one step inside a library's forward pass got and gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Call:
    """The last call of a recorded step.

    Attributes:
        arguments: positional arguments; empty until it was called.
        result: what it returned.
    """

    arguments: tuple[Any, ...] = ()
    result: Any = None


@contextmanager
def recording(owner: nn.Module, name: str) -> Iterator[Call]:
    """Records the calls of ``owner.name``: a submodule, a method, or any object that is called.

    What it does stays as it is; afterwards the owner is as before. A submodule is seen by a forward hook. torchvision
    assigns and samples in methods, which have no hooks: those are stood in for on this one object. Not for two threads
    on one network.
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

    def stand_in(*arguments: Any) -> Any:
        call.arguments, call.result = arguments, step(*arguments)
        return call.result

    with _standing_in(owner, name, stand_in):
        yield call


@contextmanager
def _standing_in(owner: nn.Module, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    attributes = vars(owner)
    had, before = name in attributes, attributes.get(name)
    attributes[name] = stand_in
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:  # a method of the class
            del attributes[name]
