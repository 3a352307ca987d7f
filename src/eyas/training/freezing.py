"""Parts of a student that training leaves as they are, and the backbone's own learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from eyas.detectors.backbone import WithBackbone, backbone_of, backbone_stages
from eyas.types import Detector, EyasError

BACKBONE = "backbone"
"""What stands for the whole backbone, whatever its name is."""


@dataclass(frozen=True)
class Frozen:
    """What is frozen of a student.

    Attributes:
        names: dotted names of the submodules.
        parameters: numbers in them.
        total: numbers in the student.
        norms: the normalisation layers among them that keep statistics, which stay in evaluation mode.
    """

    names: tuple[str, ...] = ()
    parameters: int = 0
    total: int = 0
    norms: tuple[nn.Module, ...] = ()

    def keep_statistics(self) -> None:
        """Put its normalisation layers in evaluation mode, after the student was put in training mode."""
        for norm in self.norms:
            norm.eval()

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} of {self.total / 1e6:.2f} M params: {', '.join(self.names)}"


def freeze(student: Detector, parts: int | str | Sequence[str]) -> Frozen:
    """Freeze parts of a student: their parameters need no gradient, and their BatchNorm keeps its statistics.

    Args:
        student: is changed.
        parts: the first so many stages of the backbone, see `backbone_stages`; or names of submodules of its network,
            of which "backbone" is the whole backbone.

    Raises:
        EyasError: there is no such submodule, there are fewer stages, or nothing would be left to train.
    """
    names = parts_to_freeze(student, parts)
    modules = [student.network.get_submodule(name) for name in names]
    for module in modules:
        module.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in student.network.parameters()):
        raise EyasError(f"freeze {', '.join(names)}: nothing would be left to train")
    inside = {parameter: parameter.numel() for module in modules for parameter in module.parameters()}
    norms = {part: None for module in modules for part in module.modules() if isinstance(part, _NormBase)}
    frozen = Frozen(
        tuple(names), sum(inside.values()), sum(p.numel() for p in student.network.parameters()), tuple(norms)
    )
    frozen.keep_statistics()
    return frozen


def parts_to_freeze(student: Detector, parts: int | str | Sequence[str]) -> list[str]:
    """The dotted names of the submodules that ``parts`` stands for. Raises EyasError; see `freeze`."""
    if isinstance(parts, int):
        stages = backbone_stages(student) if parts else []
        if parts > len(stages):
            raise EyasError(f"freeze {parts}: the backbone {backbone_of(student)} has {len(stages)} stages")
        return [name for stage in stages[:parts] for name in stage]
    return [_part(student, name) for name in ([parts] if isinstance(parts, str) else parts)]


def _part(student: Detector, name: str) -> str:
    own = student.backbone_name if isinstance(student, WithBackbone) else None
    if name == BACKBONE and own is not None:
        return own
    if not name or name not in dict(student.network.named_modules()):
        children = ", ".join(child for child, _ in student.network.named_children())
        of_it = f"the backbone is {own}, and " if own else ""
        raise EyasError(f"freeze: there is no submodule {name!r}; {of_it}the network's children are {children}")
    return name


def backbone_parameters(student: Detector) -> list[nn.Parameter]:
    """The parameters of the backbone. Raises EyasError where it is unknown."""
    return list(student.network.get_submodule(backbone_of(student)).parameters())
