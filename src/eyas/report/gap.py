"""The 95 % interval of the share of the gap to the teacher that a method closes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import stdtrit

from eyas.comparison import CONFIDENCE


def gap_interval(method: Mapping[int, float], plain: Mapping[int, float], teacher: float) -> tuple[float, float] | None:
    """Fieller's interval of mean(method - plain) / mean(teacher - plain), paired by seed.

    Both means come from the same few seeds, so neither may be taken as known: the interval is every ratio r for which
    Student's t does not tell the mean of ``(method - plain) - r * (teacher - plain)`` from 0 (Fieller, *Some problems
    in interval estimation*, Journal of the Royal Statistical Society B, 1954).

    Args:
        method: figure by seed.
        plain: figure by seed.
        teacher: its figure.

    Returns:
        The two ends; None with fewer than two seeds in common, or where the gap itself cannot be told from 0, when no
        ratio can be ruled out on one side.
    """
    seeds = [seed for seed in method if seed in plain]
    count = len(seeds)
    if count < 2:
        return None
    gain = np.array([method[seed] - plain[seed] for seed in seeds])
    gap = np.array([teacher - plain[seed] for seed in seeds])
    factor = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) ** 2 / count
    (gain_variance, covariance), (_, gap_variance) = factor * np.cov(gain, gap)
    # (gain - r gap)^2 <= t^2 var(gain - r gap) / n is quadratic in r.
    square = gap.mean() ** 2 - gap_variance
    if not square > 0 or not gap.mean() > 0:
        return None
    middle = gain.mean() * gap.mean() - covariance
    root = math.sqrt(max(0.0, middle**2 - square * (gain.mean() ** 2 - gain_variance)))
    return float((middle - root) / square), float((middle + root) / square)
