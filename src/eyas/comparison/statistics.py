"""The statistics of a comparison: means with intervals, differences from the baseline, gap closed, cost. All pure.

Runs of one seed share initial weights and data order, so arms are compared seed by seed: what a seed does to every arm
cancels in the difference, and the interval of the difference tells whether a method helps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from eyas.comparison.arms import baseline_of, on_same_schedule
from eyas.runs.results import RunResult
from eyas.types import EyasError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: the mean of the values.
        half_width: half the width of the 95 % interval around the mean, by Student's t with n - 1 degrees of freedom;
            None for one value.
        values: one for each seed.
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]

    def shown(self, digits: int = 3, sign: str = "") -> str:
        """As ``0.431 ± 0.012``."""
        if math.isnan(self.mean):
            return "-"
        spread = "" if self.half_width is None else f" ± {self.half_width:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{spread}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value and its 95 % interval: mean ± t(0.975, n - 1) · s / sqrt(n)."""
    count, half_width = len(values), None
    if count > 1:
        half_width = _quantile(count) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half_width, tuple(values))


def paired_difference(method: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Method minus baseline, each seed to value, over the seeds that both have; None where they share none."""
    pairs = _pairs(method, baseline)
    return estimate([own - base for own, base in pairs]) if pairs else None


@dataclass(frozen=True)
class GapClosed:
    """Mean(method - baseline) over mean(teacher - baseline).

    Attributes:
        ratio: 1 where the method reaches the teacher.
        interval: the ends of Fieller's 95 % interval.
    """

    ratio: float
    interval: tuple[float, float]

    def shown(self) -> str:
        """As ``23% (12% to 41%)``."""
        low, high = self.interval
        return f"{self.ratio:.0%} ({low:.0%} to {high:.0%})"


def gap_closed(method: Mapping[int, float], baseline: Mapping[int, float], teacher: float) -> GapClosed | None:
    """The share of the gap between baseline and teacher that a method closes, of the means over the common seeds.

    It is a ratio of means, since a ratio for each seed blows up where its gap is small. Both means come from the same
    few seeds, so neither may be taken as known: the interval is every ratio r for which Student's t does not tell the
    mean of ``(method - baseline) - r * (teacher - baseline)`` from 0 (Fieller, *Some problems in interval estimation*,
    Journal of the Royal Statistical Society B, 1954).

    Args:
        method: seed to value of the metric.
        baseline: seed to value.
        teacher: its value.

    Returns:
        None with fewer than two common seeds, or where the teacher cannot be told from the baseline, so that no ratio
        can be ruled out on one side.
    """
    pairs = _pairs(method, baseline)
    if len(pairs) < 2:
        return None
    own, base = np.array(pairs).T
    gain, gap = own - base, teacher - base
    factor = _quantile(len(pairs)) ** 2 / len(pairs)
    (gain_variance, covariance), (_, gap_variance) = factor * np.cov(gain, gap)
    # (gain - r gap)^2 <= t^2 var(gain - r gap) / n is quadratic in r.
    square = gap.mean() ** 2 - gap_variance
    if not square > 0 or not gap.mean() > 0:
        return None
    middle = gain.mean() * gap.mean() - covariance
    root = math.sqrt(max(0.0, middle**2 - square * (gain.mean() ** 2 - gain_variance)))
    ends = float((middle - root) / square), float((middle + root) / square)
    return GapClosed(float(gain.mean() / gap.mean()), ends)


@dataclass(frozen=True)
class MetricResult(Estimate):
    """One metric of one arm.

    Attributes:
        minus_baseline: gain over the baseline, paired by seed; None for the baseline itself, or without a common seed.
        gap_closed: by `gap_closed`; None for the baseline itself, or where it has no interval.
    """

    minus_baseline: Estimate | None = None
    gap_closed: GapClosed | None = None


@dataclass(frozen=True)
class ArmResult:
    """The finished runs of one arm.

    Attributes:
        seeds: in the order of the values.
        teacher: metric name to its teacher's value, the mean over the runs; None without a teacher. Arms may give one
            teacher images of different sizes.
        metrics: metric name, such as map_50, to its mean and interval.
        seconds_per_step: median over the runs.
        peak_memory: bytes of the process, the largest of the runs; None where none logged it.
        peak_device_memory: bytes of the CUDA device, likewise.
        runs: seed to finished run.
    """

    seeds: tuple[int, ...]
    teacher: Mapping[str, float] | None
    metrics: Mapping[str, MetricResult]
    seconds_per_step: float | None
    peak_memory: int | None
    peak_device_memory: int | None
    runs: Mapping[int, RunResult]


@dataclass(frozen=True)
class Comparison:
    """Arms side by side.

    Attributes:
        metric: name of the metric that ranks the arms.
        teacher: metric name to the teacher's value, the mean over the runs that logged it; None where none did.
        arms: arm name to result; only arms with a finished run.
        confidence: level of every interval.
    """

    metric: str
    teacher: Mapping[str, float] | None
    arms: Mapping[str, ArmResult]
    confidence: float = CONFIDENCE


def compare_arms(runs: Mapping[str, Mapping[int, RunResult]], metric: str | None = None) -> Comparison:
    """Compare the finished runs of several arms.

    Args:
        runs: arm name to seed to finished run; an arm may have none. An arm that has a schedule in its name is compared
            with the baseline of that schedule.
        metric: the metric to rank by; the first of the runs' when None.

    Raises:
        EyasError: the runs have no such metric.
    """
    finished = [run for arm in runs.values() for run in arm.values()]
    if not finished:
        return Comparison(metric or "map", None, {})
    known = finished[0].summary
    metric = metric or next(iter(known))
    check_known(metric, known)
    teacher = _teacher(finished)
    arms = {name: _arm(arm, runs.get(baseline_of(name, runs), {}), teacher) for name, arm in runs.items() if arm}
    return Comparison(metric, teacher, arms)


def check_known(metric: str, known: Collection[str]) -> None:
    """Raises EyasError for a metric to rank by that is not among those of the runs."""
    if metric not in known:
        raise EyasError(f"--rank_by {metric}: the runs have {', '.join(known)}")


@dataclass(frozen=True)
class Reference:
    """Every arm beside one of them.

    Attributes:
        arm: the one that the others are compared with, as it is called without a schedule.
        minus: arm name to metric name to the arm's values minus those of the reference on its schedule, paired by seed.
            The reference itself is left out, and so are arms without a seed in common with it.
    """

    arm: str
    minus: Mapping[str, Mapping[str, Estimate]]


def minus_reference(comparison: Comparison, arm: str) -> Reference:
    """Every arm of a comparison minus one of them."""
    minus = {}
    for name, result in comparison.arms.items():
        beside = comparison.arms.get(on_same_schedule(arm, name, comparison.arms))
        if beside is None or beside is result:
            continue
        both = {each: (by_seed(result.runs, each), by_seed(beside.runs, each)) for each in result.metrics}
        differences = {
            each: found for each, values in both.items() if (found := paired_difference(*values)) is not None
        }
        if differences:
            minus[name] = differences
    return Reference(arm, minus)


def _teacher(runs: Iterable[RunResult]) -> dict[str, float] | None:
    """The mean over the runs that logged their teacher."""
    taught = [run.teacher for run in runs if run.teacher is not None]
    return {name: statistics.fmean(run[name] for run in taught) for name in taught[0]} if taught else None


def _arm(
    arm: Mapping[int, RunResult], baseline: Mapping[int, RunResult], teacher: Mapping[str, float] | None
) -> ArmResult:
    metrics, taught = {}, _teacher(arm.values())
    teacher = taught or teacher
    for name in next(iter(arm.values())).summary:
        values, base = by_seed(arm, name), by_seed(baseline, name)
        gain, closed = None if arm is baseline else paired_difference(values, base), None
        if gain is not None and teacher is not None:
            closed = gap_closed(values, base, teacher[name])
        own = estimate(list(values.values()))
        metrics[name] = MetricResult(own.mean, own.half_width, own.values, gain, closed)
    seconds = [run.seconds_per_step for run in arm.values() if run.seconds_per_step is not None]
    return ArmResult(
        seeds=tuple(arm),
        teacher=taught,
        metrics=metrics,
        seconds_per_step=statistics.median(seconds) if seconds else None,
        peak_memory=max((run.peak_memory or 0 for run in arm.values()), default=0) or None,
        peak_device_memory=max((run.peak_device_memory or 0 for run in arm.values()), default=0) or None,
        runs=arm,
    )


def by_seed(runs: Mapping[int, RunResult], metric: str) -> dict[int, float]:
    """Seed to the value of a metric."""
    return {seed: run.summary[metric] for seed, run in runs.items()}


def _pairs(method: Mapping[int, float], baseline: Mapping[int, float]) -> list[tuple[float, float]]:
    """The values of the seeds that both have."""
    return [(value, baseline[seed]) for seed, value in method.items() if seed in baseline]


def _quantile(count: int) -> float:
    """Student's t(0.975, count - 1)."""
    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
