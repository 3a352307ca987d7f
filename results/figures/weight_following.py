"""Prints the table of docs/weight_rule.md on how closely an automatic weight follows the gradients of every batch.

``python results/figures/weight_following.py``

results/weight_following.json has both norms at the imitated features in the first 393 batches after the warm-up, under
the demo's teacher, of ``eyas distill --config digits/student --dataset.batch_size 8 --optim.optimizer sgd
--optim.lr 0.01 --run.precision no``.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST, AROUND = 10, 10
SCHEDULES = ((20, 0.1), (20, 0.3), (5, 0.1), (10, 0.3), (5, 0.3))


def errors(ratios: list[float], every: int, share: float) -> list[float]:
    """Logarithm of the held mean over the true ratio, a mean of 21 batches, in every batch after the first ten."""
    mean, count, found = 0.0, 0, []
    for batch, ratio in enumerate(ratios):
        group, slot = divmod(batch, every)
        if count < FIRST or slot == group % every:
            count += 1
            mean += (1 / count if count <= FIRST else share) * (ratio - mean)
        found.append(mean - statistics.fmean(ratios[max(0, batch - AROUND) : batch + AROUND + 1]))
    return found[FIRST:]


def within(found: list[float], factor: float) -> float:
    return statistics.fmean(abs(error) < math.log(factor) for error in found)


if __name__ == "__main__":
    norms = json.loads((ROOT / "results" / "weight_following.json").read_text())
    ratios = [math.log(above / below) for above, below in zip(norms["detection"], norms["imitation"], strict=True)]
    for every, share in SCHEDULES:
        found = errors(ratios, every, share)
        shares = ", ".join(f"{within(found, factor):.0%} within a factor of {factor}" for factor in (1.5, 2))
        print(f"one in {every:2}, share {share}: {shares}")
