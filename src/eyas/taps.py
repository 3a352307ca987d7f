"""Taps: keep the output of named submodules during a forward pass, and stop the pass once the last one has fired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from eyas.types import Detector, EyasError


class _LastTapFired(Exception):
    """Ends a forward pass from inside a hook; never leaves `Taps`."""


class Taps:
    """A context in which the outputs of named submodules are kept.

    Inside it, run the network; afterwards `features` has one map per tap name. A tap name is a submodule's dotted name,
    with ``:key`` behind it where the submodule returns a mapping or a sequence: ``backbone.body``, ``backbone:0``.

    Args:
        network: the module that the names are relative to.
        names: tap names. A submodule that runs several times in one pass is read the first time.
        stop: end the forward pass as soon as the last tap has fired, silently: nothing after it is computed.

    Raises:
        EyasError: a name is no submodule of the network, its output has no such key or is no tensor, or it never ran.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], *, stop: bool = False) -> None:
        self.network = network
        self.names = tuple(dict.fromkeys(names))
        self.stop = stop
        self.features: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._modules = {module: _submodule(network, module) for module in map(_module_name, self.names)}

    def __enter__(self) -> Taps:
        self.features = {}
        for module_name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(module_name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if kind is not None and kind is not _LastTapFired:
            return False
        missing = [name for name in self.names if name not in self.features]
        if missing:
            raise EyasError(f"these taps never fired in the forward pass: {', '.join(missing)}")
        return True

    def _hook(self, module_name: str) -> Callable[[nn.Module, Any, Any], None]:
        mine = [name for name in self.names if _module_name(name) == module_name]

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            for name in mine:
                self.features.setdefault(name, _pick(output, name))
            if self.stop and len(self.features) == len(self.names):
                raise _LastTapFired

        return keep


def teacher_features(teacher: Detector, names: Iterable[str], images: Tensor) -> dict[str, Tensor]:
    """The teacher's feature maps, without gradient and without running anything behind the last of them.

    Args:
        teacher: in evaluation mode.
        names: tap names.
        images: (batch, 3, height, width) in [0, 1].
    """
    with torch.no_grad(), Taps(teacher.network, names, stop=True) as taps:
        teacher.predict(images)
    return taps.features


def _module_name(tap: str) -> str:
    return tap.partition(":")[0]


def _submodule(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in network.named_children())
        raise EyasError(f"there is no submodule {name!r} to tap; the network's children are: {children}") from error


def _pick(output: Any, tap: str) -> Tensor:
    _, colon, key = tap.partition(":")
    if colon:
        try:
            output = output[key] if isinstance(output, Mapping) else output[int(key)]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            keys = ", ".join(output) if isinstance(output, Mapping) else f"a {type(output).__name__}"
            raise EyasError(f"the output tapped as {tap!r} has no entry {key!r}; it has: {keys}") from error
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise EyasError(f"the tap {tap!r} gives a {kind}, not a tensor; name one of its entries as {tap!r}:key")
    return output
