"""What share of a method's loss each of its levels or heads has, since the last line of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DOMINANT = 0.9
"""The share of a level or head above which the others hardly count."""


class PartSums:
    """Sums of a loss's parts over batches, by part. Adding up never waits for the device.

    Parts count by their absolute value: some methods have negative ones.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add the parts of one batch, scalars."""
        for name, part in parts.items():
            self._sums[name] = part.abs() + self._sums[name].to(part) if name in self._sums else part.abs()

    def take(self) -> dict[str, Tensor]:
        """The sums since they were last taken."""
        taken, self._sums = self._sums, {}
        return taken

    def state(self) -> dict[str, float]:
        """The sums, for a checkpoint."""
        return {name: float(part) for name, part in self._sums.items()}

    def restore(self, state: Any) -> None:
        """Go on from the sums of a checkpoint. Raises ValueError where they are none."""
        if not isinstance(state, dict) or not all(isinstance(part, float) for part in state.values()):
            raise ValueError(f"the parts of a loss are {state!r:.60}")
        self._sums = {str(name): torch.tensor(part) for name, part in state.items()}


def shares(sums: Mapping[str, float]) -> dict[str, float]:
    """Each part's share of their sum, in [0, 1]; empty where there is but one part, or nothing to share."""
    total = sum(sums.values())
    return {name: part / total for name, part in sums.items()} if len(sums) > 1 and total > 0 else {}


def dominant(sums: Mapping[str, float]) -> tuple[str, float] | None:
    """The part that has more than `DOMINANT` of the sum, and its share; None where no part has."""
    found = shares(sums)
    name = max(found, key=found.__getitem__, default=None)
    return (name, found[name]) if name is not None and found[name] > DOMINANT else None
