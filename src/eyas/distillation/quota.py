"""Tells the host that a count on the device has reached a number, without waiting for the device in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

SPACING = 5
"""Batches between two looks while the number is overdue."""


@dataclass
class Quota:
    """Whether a count has reached a number, as far as the host knows.

    Which batches count (those with something to imitate, with a finite gradient) is known on the device alone, but
    what a batch computes is decided on the host. Reading the count waits for the device, so the host looks at it when
    the number can have been reached at the earliest, and every `SPACING` batches while it is overdue. Where every batch
    counts, it is read once.

    Processes must decide alike, or one of them waits forever in a collective call that the others do not make. The
    counts are of values averaged over the processes, and the batches of the looks follow from them, so they do. Both
    are in the checkpoint, so that a resumed run decides like one that was not interrupted.

    Attributes:
        wanted: the number.
        next_look: the batch in which the count is read next.
        reached: whether it had reached the number at the last look. It stays so.
        seen: the count at the last look.
    """

    wanted: int
    next_look: int
    reached: bool = False
    seen: int = 0

    def look(self, count: Tensor | int, batch: int) -> bool:
        """Whether the number is reached, in a batch, from 0; reads the count if a look is due."""
        if not self.reached and batch >= self.next_look:
            # Tensors on the meta device have no values: there every batch counts.
            self.seen = self.wanted if isinstance(count, Tensor) and count.is_meta else int(count)
            missing = self.wanted - self.seen
            self.reached, self.next_look = missing <= 0, batch + max(missing, SPACING)
        return self.reached

    def state(self) -> list[int]:
        return [self.next_look, int(self.reached), self.seen]

    def restore(self, state: Sequence[int]) -> None:
        self.next_look, reached, self.seen = state
        self.reached = bool(reached)
