"""Checks of what a distiller is built from, and of what students and methods return, in every batch and without waiting
for a device. The values of the first batches are checked by `eyas.distillation.first_batches`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from eyas.detectors import check_detector
from eyas.methods.method import LevelPair, Method
from eyas.types import EyasError, View


def check_student(student: object) -> None:
    """Raises EyasError where it is no detector, or none that can be trained."""
    check_detector(student, "the student")
    if not isinstance(student, nn.Module):
        raise EyasError(f"the student must be a torch module, or nothing would train it; got {type(student).__name__}")


def check_methods(methods: Sequence[Method]) -> None:
    """Raises EyasError where one is no method, or another distiller's, or two have one name."""
    for method in methods:
        if not isinstance(method, Method):
            got = f"the class {method.__name__}" if isinstance(method, type) else f"a {type(method).__name__}"
            raise EyasError(f"methods are given one by one, as Distiller(student, teacher, eyas.FGFI()); got {got}")
        if method.is_set_up:
            raise EyasError(f"{method.name} belongs to another distiller, whose layers it has; make a new method")
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise EyasError(f"each method of a distiller needs a name of its own, got {', '.join(names)}")


def check_apart(student: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Raises EyasError where the student has a parameter of the teacher's networks, which are frozen."""
    own = {id(parameter): name for name, parameter in student.named_parameters()}
    for parameter in (each for network in networks for each in network.parameters()):
        if id(parameter) in own:
            raise EyasError(
                f"student and teacher share the parameter {own[id(parameter)]}, which would be frozen; give two "
                "networks, for example by copy.deepcopy"
            )


def check_modes(distiller: nn.Module, student: nn.Module) -> None:
    """Warn of a distiller and a student in different modes; a pass without gradients may be in either."""
    if torch.is_grad_enabled() and distiller.training != student.training:
        mode, other = ("train", "eval") if distiller.training else ("eval", "train")
        warnings.warn(
            f"the distiller is in {mode} mode and its student in {other} mode: only in train mode does a distiller "
            "count batches and distil; call distiller.train(), which reaches the student too",
            stacklevel=3,
        )


def is_training_pass(module: nn.Module) -> bool:
    """Whether a pass counts as a batch of training: in train mode, with gradients."""
    return module.training and torch.is_grad_enabled()


def check_losses(losses: Mapping[str, Tensor]) -> None:
    """Raises EyasError unless a student's losses are scalar tensors by name, at least one."""
    if not isinstance(losses, Mapping) or not losses:
        raise EyasError(f"the student's losses are scalar tensors by name, one or more; got {losses!r:.60}")
    for name, loss in losses.items():
        if (got := _no_scalar(loss)) is not None:
            raise EyasError(f"the student's loss {name} is {got} and not a scalar tensor: average it, or leave it out")


def check_names(losses: Mapping[str, Tensor], methods: Iterable[Method]) -> None:
    """Raises EyasError for a method that is called like one of the student's own losses."""
    for method in methods:
        if method.name in losses:
            raise EyasError(f"two losses are called {method.name}: give the method another name")


def check_imitated(student: View, pairs: Sequence[LevelPair], levels: Iterable[int]) -> None:
    """Raises EyasError where the student's map of one of these level pairs cannot learn."""
    for index in levels:
        if torch.is_grad_enabled() and not student.features[index].requires_grad:
            raise EyasError(
                f"the student's level {pairs[index].student_tap} comes from frozen parts alone, so it cannot learn to "
                "imitate: unfreeze some of them, or pair other levels (pairs); a checkpoint around it needs "
                "use_reentrant=False"
            )


def check_loss(method: Method, loss: object) -> None:
    """Raises EyasError unless a method returned a scalar that the student can learn from."""
    name = type(method).__name__
    if (got := _no_scalar(loss)) is not None:
        raise EyasError(f"the method {name} returned {got}; its forward returns the loss of a batch, a scalar tensor")
    assert isinstance(loss, Tensor)
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise EyasError(
            f"the loss of the method {name} has no gradient, so nothing is learned from it: its forward compares the "
            "student's maps or outputs without detaching them, and multiplies one of them by 0 where there is nothing "
            "to compare"
        )


def _no_scalar(value: object) -> str | None:
    """Describes a value that is not a scalar tensor; None for one that is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor {tuple(value.shape)}" if value.ndim else None
