"""Taps keep the outputs of named submodules during a forward pass, and can stop the pass after the last of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from eyas.nn.eval_mode import eval_mode
from eyas.nn.failures import running
from eyas.types import Detector, EyasError, Size, View, size_of

PROBE_SIZE: Size = (128, 160)
"""(height, width) of the random image that `probe` runs."""


class _LastTapFired(BaseException):
    """Ends a forward pass from inside a hook. Its argument marks the context that raised it, which always catches it.

    Not an `Exception`, so that an ``except Exception`` in the network does not catch it.
    """


@contextmanager
def stopping_after(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """In the context, a forward pass ends silently once each of these submodules has returned, whatever follows them.

    Where one of them never runs, the pass goes on to its end. Hooks that were registered before see the last output.
    """
    left, mark = set(names), object()

    def note(name: str, *_: Any) -> None:
        left.discard(name)
        if not left:
            raise _LastTapFired(mark)

    handles = [_submodule(network, name).register_forward_hook(partial(note, name)) for name in sorted(left)]
    try:
        yield
    except _LastTapFired as fired:
        if fired.args[0] is not mark:
            raise
    finally:
        for handle in handles:
            handle.remove()


class Taps:
    """A context that keeps the outputs of named submodules.

    Run the network inside it; afterwards `features` maps each tap name to its output. A tap name is a submodule's
    dotted name, followed by ``:key`` where the submodule returns a mapping or sequence: ``backbone.body``,
    ``backbone:0``.

    Args:
        network: the module that the names are relative to.
        names: tap names. A submodule that runs several times in one pass is read the first time.
        stop: end the forward pass silently once the last tap has fired, so that nothing after it is computed.

    Raises:
        EyasError: the network has no such submodule, or one of them under two names, the output has no such key or is
            not a tensor, a tap never fired, or a later module changed a kept output in place.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], *, stop: bool = False) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.stop = stop
        self.features: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._modules = [_submodule(network, name.partition(":")[0]) for name in self.names]
        outputs = [(module, name.partition(":")[2]) for module, name in zip(self._modules, self.names, strict=True)]
        if len(set(outputs)) < len(outputs):
            raise EyasError(f"these taps are one module under several names: {', '.join(self.names)}; name it once")

    def __enter__(self) -> Taps:
        self.features, self._versions = {}, {}
        for name, module in zip(self.names, self._modules, strict=True):
            self._handles.append(module.register_forward_hook(partial(self._keep, name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if error is not None and not (isinstance(error, _LastTapFired) and error.args[0] is self):
            return False
        missing = [name for name in self.names if name not in self.features]
        if missing:
            raise EyasError(f"these taps never fired in the forward pass: {', '.join(missing)}")
        # After an in-place ReLU behind the tap, a full pass would keep another map than a stopped pass.
        changed = [name for name, version in self._versions.items() if self.features[name]._version != version]
        if changed:
            raise EyasError(
                f"a later module changed the output tapped as {', '.join(changed)} in place; tap that module instead"
            )
        return error is not None

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """The forward hook of one tap."""
        if name not in self.features:
            feature = _pick(output, name)
            if feature.is_inference():  # a loss cannot save such a tensor for its backward pass
                with torch.inference_mode(False):
                    feature = feature.clone()
            else:
                self._versions[name] = feature._version
            self.features[name] = feature
        if self.stop and len(self.features) == len(self.names):
            raise _LastTapFired(self)


def tap_features(detector: Detector, names: Iterable[str], images: Tensor, role: str = "detector") -> dict[str, Tensor]:
    """A detector's feature maps by tap name, (batch, C, H, W) each, without gradients. Evaluation mode.

    The pass stops after the last tap, so heads and NMS never run. Images are (batch, 3, height, width) in [0, 1].
    Raises EyasError, which names the ``role`` and the size, when the detector fails on them.
    """
    with running(f"the {role}", images), torch.no_grad(), Taps(detector.network, names, stop=True) as taps:
        detector.predict(images)
    return taps.features


def tapped_view(detector: Detector, names: Sequence[str], images: Tensor, role: str) -> View:
    """The view of a batch at tap names that are levels of the detector; errors as for `tap_features`."""
    features = tap_features(detector, names, images, role)
    levels = [detector.levels[name] for name in names]
    return View([features[name] for name in names], levels, size_of(images))


def as_parameters(images: Tensor, detector: Detector) -> Tensor:
    """Images in the precision of a detector's parameters: a teacher may be in half precision by itself."""
    dtype = some_parameter(detector).dtype
    return images.to(dtype) if dtype.is_floating_point else images


def some_parameter(detector: Detector) -> Tensor:
    """A parameter of a detector's network, see `floating_parameter`."""
    return floating_parameter(detector.network)


def floating_parameter(network: nn.Module) -> Tensor:
    """A parameter in floating point, for its device and dtype; a float32 scalar on the CPU where there is none."""
    parameters = (each for each in network.parameters() if each.is_floating_point())
    return next(parameters, torch.zeros((), device="cpu"))


def probe_images(detector: Detector) -> Tensor:
    """One random image, (1, 3, height, width) as the detector's parameters are."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, *PROBE_SIZE, generator=generator, device="cpu").to(some_parameter(detector))


def probe(detector: Detector, names: Sequence[str], role: str) -> dict[str, Tensor]:
    """The feature maps of one random image, by tap name, in evaluation mode. Each name is a level of the detector.

    Raises:
        EyasError: a map is not (1, C, H, W) with the C that the detector declares for the level.
    """
    images = probe_images(detector)
    with eval_mode(detector.network):
        features = tap_features(detector, names, images, role)
    for name in names:
        shape, promised = tuple(features[name].shape), detector.levels[name].channels
        if len(shape) != 4 or shape[1] != promised:
            raise EyasError(f"level {name!r} of the {role} is {shape}, not (1, {promised}, height, width) as declared")
    return features


def _submodule(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in network.named_children())
        raise EyasError(f"there is no submodule {name!r} to tap; the network's children are: {children}") from error


def _pick(output: Any, tap: str) -> Tensor:
    _, colon, key = tap.partition(":")
    if colon:
        entries = _entries(output)
        if key not in entries:
            has = f"it has: {', '.join(entries)}" if entries else f"it is a {type(output).__name__}"
            raise EyasError(f"the output tapped as {tap!r} has no entry {key!r}; {has}")
        output = entries[key]
    if not isinstance(output, Tensor):
        names = ", ".join(f"{tap}:{key}" for key in _entries(output))
        advice = f"; tap one of {names}" if names else ""
        raise EyasError(f"the tap {tap!r} gives a {type(output).__name__}, not a tensor{advice}")
    return output


def _entries(output: Any) -> dict[str, Any]:
    """The entries that a key can name. A tensor has none: ``:0`` would silently be the first image of the batch."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, Sequence) and not isinstance(output, str):
        return {str(index): value for index, value in enumerate(output)}
    return {}
