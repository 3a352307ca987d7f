"""The branches of RetinaNet's and FCOS's head, which can be cut after any convolution and entered again there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet

from eyas.types import Branch, EyasError


def branches(network: nn.Module) -> dict[str, Branch]:
    """``anchors.logits`` and ``anchors.deltas`` of a RetinaNet or FCOS; none of other detectors."""
    if not isinstance(network, (RetinaNet, FCOS)):
        return {}
    head = network.head
    return {
        "anchors.logits": TorchvisionBranch(head.classification_head, 0),
        "anchors.deltas": TorchvisionBranch(head.regression_head, 1),
    }


@dataclass(frozen=True, eq=False)
class TorchvisionBranch:
    """Satisfies `eyas.types.Branch`.

    ``half`` is torchvision's classification or regression head, whose ``conv`` has the convolutions; ``extra`` the
    number of dimensions that its rows have more than logits: deltas are (N, 1, 4).
    """

    half: Any
    extra: int

    @contextmanager
    def record(self, position: int) -> Iterator[list[Tensor]]:
        maps: list[Tensor] = []
        cut = self._cut(position)

        def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            maps.append(output)
            # The next layer may be an activation that works in place.
            return output.clone()

        def keep_input(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            maps.append(arguments[0])

        module = self.half.conv if cut == 0 else self._layers()[cut - 1]
        hook = module.register_forward_pre_hook(keep_input) if cut == 0 else module.register_forward_hook(keep)
        try:
            yield maps
        finally:
            hook.remove()

    def resume(self, position: int, maps: Sequence[Tensor]) -> Tensor:
        rest = copy.copy(self.half)  # shares every parameter
        rest._modules = {**self.half._modules, "conv": nn.Sequential(*self._layers()[self._cut(position) :])}
        # An activation that works in place would change the caller's maps.
        found = rest([feature.clone() for feature in maps])
        rows: Tensor = (found if isinstance(found, Tensor) else found[0]).float().flatten(0, 1)
        return rows.unsqueeze(1) if self.extra else rows

    def _layers(self) -> list[nn.Module]:
        """Convolutions, norms and activations as they run: FCOS has them in one sequence, RetinaNet in blocks."""
        return [
            layer for block in self.half.conv for layer in (block if isinstance(block, nn.Sequential) else (block,))
        ]

    def _cut(self, position: int) -> int:
        """How many layers run before the position: an activation is the last layer before the next convolution."""
        layers = self._layers()
        starts = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        at = position + len(starts) if position < 0 else position
        if not 0 <= at <= len(starts):
            raise EyasError(
                f"a branch of the head has {len(starts)} convolutions, so it cannot be cut at position {position}; "
                f"choose one from 0 to {len(starts)}"
            )
        return 0 if at == 0 else [*starts, len(layers)][at] - 1
