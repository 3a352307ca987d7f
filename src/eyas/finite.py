"""A training whose loss is not finite stops, and says where; the device is asked once in several batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.types import EyasError, Record, Target


@dataclass(frozen=True)
class _Batch:
    step: int
    total: Tensor
    losses: dict[str, Tensor]
    records: tuple[int, ...]


class FiniteLosses:
    """Remembers the losses of some batches, on their device, until they are looked at together.

    Looking at a number of a GPU waits until the GPU is done, and leaves it idle until the next batch is prepared.

    Args:
        records: of the training images, for their ids.
        every: batches between looks; 1 looks at once, which on a CPU costs nothing.
    """

    def __init__(self, records: Sequence[Record], every: int) -> None:
        self._records, self._every = records, every
        self._batches: list[_Batch] = []

    def add(self, step: int, total: Tensor, losses: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        """Take in a batch and the sum of its losses. Raises EyasError as `check` does, when it is time to look."""
        kept = {name: loss.detach() for name, loss in losses.items()}
        self._batches.append(_Batch(step, total.detach(), kept, tuple(target["index"] for target in targets)))
        if len(self._batches) >= self._every:
            self.check()

    def check(self) -> None:
        """Look at what there is. Raises EyasError for the first batch whose loss is not finite, with its images."""
        batches, self._batches = self._batches, []
        if not batches:
            return
        finite = torch.isfinite(torch.stack([batch.total for batch in batches]))
        if bool(finite.all()):
            return
        batch = batches[int(finite.int().argmin())]
        values = ", ".join(f"{name} {float(loss):.4g}" for name, loss in batch.losses.items())
        images = ", ".join(self._records[index].image_id for index in batch.records)
        raise EyasError(
            f"the loss is not finite in step {batch.step}: {values}; images {images}. Lower --optim.lr or the "
            "weight of the method, lengthen --optim.warmup, or look at these images; the last checkpoint is intact"
        )
