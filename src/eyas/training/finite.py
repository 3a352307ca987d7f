"""Stops a training whose loss or gradient is not finite, naming step and images; reads the device every few batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.types import EyasError, Record, Target


@dataclass(frozen=True)
class _Number:
    """A number that must be finite, and its origin: a sum of losses, or the norm of a gradient."""

    what: str
    step: int
    value: Tensor
    losses: dict[str, Tensor]
    records: tuple[int, ...]


class FiniteLosses:
    """Keeps the losses and gradient norms of some batches on their device and checks them together.

    Reading a number of a GPU waits until the GPU is done, and leaves it idle until the next batch is prepared.

    Args:
        records: of the training images, for their ids.
        every: batches between checks; 1 checks each at once, which costs nothing on a CPU.
    """

    def __init__(self, records: Sequence[Record], every: int) -> None:
        self._records, self._every = records, every
        self._numbers: list[_Number] = []
        self._batches = 0
        self._step: tuple[int, list[int]] = 0, []
        self._losses: dict[str, Tensor] = {}

    def add(self, step: int, total: Tensor, losses: Mapping[str, Tensor], targets: Sequence[Target]) -> None:
        """Add a batch and the sum of its losses. Raises EyasError as `check` does, when a check is due."""
        self._losses = {name: loss.detach() for name, loss in losses.items()}
        records = tuple(target["index"] for target in targets)
        if self._step[0] != step:
            self._step = step, []
        self._step[1].extend(records)
        self._numbers.append(_Number("loss", step, total.detach(), self._losses, records))
        self._batches += 1
        if self._batches >= self._every:
            self.check()

    def add_gradient(self, step: int, norm: Tensor) -> None:
        """Add the gradient norm of a step, whose batches were added before; may raise as `add` does."""
        self._numbers.append(_Number("gradient", step, norm.detach(), self._losses, tuple(self._step[1])))
        if self._every == 1:
            self.check()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Check at the end, and when anything fails inside: a loss that was not finite before is the better reason."""
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()

    def check(self) -> None:
        """Check the numbers so far. Raises EyasError for the first that is not finite, with its images."""
        numbers, self._numbers, self._batches = self._numbers, [], 0
        if not numbers:
            return
        finite = torch.isfinite(torch.stack([number.value.float() for number in numbers]))
        if finite.all():
            return
        number = numbers[int(finite.int().argmin())]
        values = ", ".join(f"{name} {float(loss):.4g}" for name, loss in number.losses.items())
        images = ", ".join(self._records[index].image_id for index in number.records)
        raise EyasError(
            f"the {number.what} is not finite in step {number.step}: {values}; images {images}. Lower --optim.lr or "
            "the weight of the method, lengthen --optim.warmup, or look at these images"
        )
