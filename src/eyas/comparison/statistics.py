"""The statistics of a comparison: means with intervals, differences from the baseline, gap closed, cost. All pure.

Runs of one seed share initial weights and data order, so arms are compared seed by seed: what a seed does to every arm
cancels in the difference, and the interval of the difference tells whether a method helps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from eyas.comparison.arms import BASELINE
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


def gap_closed(method: float, baseline: float, teacher: float) -> float | None:
    """(method - baseline) / (teacher - baseline); None where the teacher is not above the baseline."""
    return (method - baseline) / (teacher - baseline) if teacher > baseline else None


@dataclass(frozen=True)
class MetricResult(Estimate):
    """One metric of one arm.

    Attributes:
        minus_baseline: gain over the baseline, paired by seed; None for the baseline itself, or without a common seed.
        gap_closed: see `gap_closed`, of the means over the common seeds; None where it has no meaning.
    """

    minus_baseline: Estimate | None = None
    gap_closed: float | None = None


@dataclass(frozen=True)
class ArmResult:
    """The finished runs of one arm.

    Attributes:
        seeds: in the order of the values.
        metrics: metric name, such as map_50, to its mean and interval.
        seconds_per_step: median over the runs.
        peak_memory: bytes of the process, the largest of the runs; None where none logged it.
        peak_device_memory: bytes of the CUDA device, likewise.
        runs: seed to finished run.
    """

    seeds: tuple[int, ...]
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
        runs: arm name to seed to finished run; an arm may have none.
        metric: the metric to rank by; when None "map", or "map_50" where the rules have no other threshold.

    Raises:
        EyasError: the runs have no such metric.
    """
    finished = [run for arm in runs.values() for run in arm.values()]
    if not finished:
        return Comparison(metric or "map", None, {})
    known = finished[0].summary
    metric = metric or ("map" if "map" in known else "map_50")
    if metric not in known:
        raise EyasError(f"--metric {metric}: the runs have {', '.join(known)}")
    taught = [run.teacher for run in finished if run.teacher is not None]
    teacher = {name: statistics.fmean(run[name] for run in taught) for name in taught[0]} if taught else None
    baseline = runs.get(BASELINE, {})
    return Comparison(metric, teacher, {name: _arm(arm, baseline, teacher) for name, arm in runs.items() if arm})


def _arm(
    arm: Mapping[int, RunResult], baseline: Mapping[int, RunResult], teacher: Mapping[str, float] | None
) -> ArmResult:
    metrics = {}
    for name in next(iter(arm.values())).summary:
        values, base = ({seed: run.summary[name] for seed, run in runs.items()} for runs in (arm, baseline))
        gain, closed = None if arm is baseline else paired_difference(values, base), None
        if gain is not None and teacher is not None:
            # The means over the common seeds, since a ratio for each seed blows up where its gap is small.
            method_mean, base_mean = map(statistics.fmean, zip(*_pairs(values, base), strict=True))
            closed = gap_closed(method_mean, base_mean, teacher[name])
        own = estimate(list(values.values()))
        metrics[name] = MetricResult(own.mean, own.half_width, own.values, gain, closed)
    seconds = [run.seconds_per_step for run in arm.values() if run.seconds_per_step is not None]
    return ArmResult(
        seeds=tuple(arm),
        metrics=metrics,
        seconds_per_step=statistics.median(seconds) if seconds else None,
        peak_memory=max((run.peak_memory or 0 for run in arm.values()), default=0) or None,
        peak_device_memory=max((run.peak_device_memory or 0 for run in arm.values()), default=0) or None,
        runs=arm,
    )


def _pairs(method: Mapping[int, float], baseline: Mapping[int, float]) -> list[tuple[float, float]]:
    """The values of the seeds that both have."""
    return [(value, baseline[seed]) for seed, value in method.items() if seed in baseline]


def _quantile(count: int) -> float:
    """Student's t(0.975, count - 1)."""
    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))


def rows(comparison: Comparison) -> list[list[str]]:
    """The table as text: its head, the teacher, then the arms in their order."""
    main = comparison.metric
    known = next(iter(comparison.arms.values())).metrics
    shown = [name for name in dict.fromkeys((main, "map_50")) if name in known]
    table = [["", *map(title, shown), "minus baseline", "gap closed", "s/step", "memory", "seeds"]]
    if comparison.teacher is not None:
        table.append(["teacher", *(f"{comparison.teacher[name]:.3f}" for name in shown), *[""] * 5])
    for name, arm in comparison.arms.items():
        result, memory = arm.metrics[main], arm.peak_device_memory or arm.peak_memory
        table.append([
            name,
            *(arm.metrics[each].shown() for each in shown),
            "" if result.minus_baseline is None else result.minus_baseline.shown(sign="+"),
            "" if result.gap_closed is None else f"{result.gap_closed:.0%}",
            "" if arm.seconds_per_step is None else f"{arm.seconds_per_step:.3f}",
            "" if memory is None else f"{memory / 2**20:.0f} MiB",
            str(len(arm.seeds)),
        ])  # fmt: skip
    return table


def markdown(table: Sequence[Sequence[str]], note: str) -> str:
    """Rows as a Markdown table, numbers on the right, with a note below."""
    head, *body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def note(missing: Sequence[str] = ()) -> str:
    """How to read the table, and the runs that it lacks."""
    text = "±: 95 % confidence interval of the mean over the seeds (Student's t); minus baseline is paired by seed."
    return text + (f" Not finished: {', '.join(missing)}." if missing else "")


def title(metric: str) -> str:
    """A metric's heading in a table: ``map`` is mAP, which under COCO's rules is mAP50:95."""
    return metric.replace("map_", "mAP ").replace("map", "mAP").replace("mAP 50", "mAP50").replace("mAP 75", "mAP75")


def gap_interval(
    method: Mapping[int, float], baseline: Mapping[int, float], teacher: float
) -> tuple[float, float] | None:
    """Fieller's interval of mean(method - baseline) / mean(teacher - baseline), paired by seed.

    Both means come from the same few seeds, so neither may be taken as known: the interval is every ratio r for which
    Student's t does not tell the mean of ``(method - baseline) - r * (teacher - baseline)`` from 0 (Fieller, *Some
    problems in interval estimation*, Journal of the Royal Statistical Society B, 1954).

    Args:
        method: seed to value of the metric.
        baseline: seed to value.
        teacher: its value.

    Returns:
        The two ends; None with fewer than two common seeds, or where the gap itself cannot be told from 0 and no
        ratio can be ruled out on one side.
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
    return float((middle - root) / square), float((middle + root) / square)
