"""The statistics of a comparison: means with intervals, differences from the baseline, gap closed, cost. All pure.

Runs of one seed share initial weights and data order, so arms are compared seed by seed: what a seed does to every arm
cancels in the difference, and the interval of the difference tells whether a method helps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from eyas.comparison.arms import BASELINE
from eyas.runs.results import RunResult, metric_title
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
        runs: arm name to seed to finished run; an arm may have none.
        metric: the metric to rank by; the first of the runs' when None.

    Raises:
        EyasError: the runs have no such metric.
    """
    finished = [run for arm in runs.values() for run in arm.values()]
    if not finished:
        return Comparison(metric or "map", None, {})
    known = finished[0].summary
    metric = metric or next(iter(known))
    if metric not in known:
        raise EyasError(f"--metric {metric}: the runs have {', '.join(known)}")
    teacher = _teacher(finished)
    baseline = runs.get(BASELINE, {})
    return Comparison(metric, teacher, {name: _arm(arm, baseline, teacher) for name, arm in runs.items() if arm})


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
        values, base = ({seed: run.summary[name] for seed, run in runs.items()} for runs in (arm, baseline))
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


def _pairs(method: Mapping[int, float], baseline: Mapping[int, float]) -> list[tuple[float, float]]:
    """The values of the seeds that both have."""
    return [(value, baseline[seed]) for seed, value in method.items() if seed in baseline]


def _quantile(count: int) -> float:
    """Student's t(0.975, count - 1)."""
    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))


def conclusions(comparison: Comparison) -> list[str]:
    """A sentence for each arm beside the baseline: what these seeds tell about its gain."""
    name, sentences = metric_title(comparison.metric), []
    for arm, result in comparison.arms.items():
        gain, closed = result.metrics[comparison.metric].minus_baseline, result.metrics[comparison.metric].gap_closed
        if gain is None or math.isnan(gain.mean):
            continue
        seeds = len(gain.values)
        if gain.half_width is None:
            verdict = f"is {gain.shown(sign='+')} {name} from the baseline on one seed, which does not show the spread"
        elif abs(gain.mean) > gain.half_width:
            better = "better" if gain.mean > 0 else "worse"
            verdict = f"is {better} than the baseline by {abs(gain.mean):.3f} ± {gain.half_width:.3f} {name}"
        else:
            verdict = f"cannot be told from the baseline: {gain.shown(sign='+')} {name}"
        over = "" if gain.half_width is None else f", over {seeds} seeds"
        share = "" if closed is None else f"; it closes {closed.shown()} of the gap to its teacher"
        sentences.append(f"{arm} {verdict}{over}{share}.")
    return sentences


def rows(comparison: Comparison) -> list[list[str]]:
    """The table as text: its head, the teacher, then the arms in their order."""
    main = comparison.metric
    known = next(iter(comparison.arms.values())).metrics
    at_50 = [name for name in known if name.startswith("map_50")][:1]
    shown = list(dict.fromkeys((main, *at_50)))
    table = [["", *map(metric_title, shown), "minus baseline", "gap closed", "s/step", "memory", "seeds"]]
    table += [[name, *values, *[""] * 5] for name, values in _teachers(comparison, shown).items()]
    for name, arm in comparison.arms.items():
        result, memory = arm.metrics[main], arm.peak_device_memory or arm.peak_memory
        table.append([
            name,
            *(arm.metrics[each].shown() for each in shown),
            "" if result.minus_baseline is None else result.minus_baseline.shown(sign="+"),
            _gap(result, comparison.teacher),
            "" if arm.seconds_per_step is None else f"{arm.seconds_per_step:.3f}",
            "" if memory is None else f"{memory / 2**20:.0f} MiB",
            str(len(arm.seeds)),
        ])  # fmt: skip
    return table


def _teachers(comparison: Comparison, shown: Sequence[str]) -> dict[str, list[str]]:
    """Its name to the teacher's metrics as text; by arm where arms that give it other images got other metrics."""
    if comparison.teacher is None:
        return {}
    by_values: dict[tuple[str, ...], list[str]] = {}
    for name, arm in comparison.arms.items():
        if arm.teacher is not None:
            by_values.setdefault(tuple(f"{arm.teacher[each]:.3f}" for each in shown), []).append(name)
    alone = len(by_values) == 1
    return {
        "teacher" if alone else f"teacher of {', '.join(names)}": list(values) for values, names in by_values.items()
    }


def _gap(result: MetricResult, teacher: Mapping[str, float] | None) -> str:
    """The gap closed as text: empty where it does not apply, - where it cannot be told."""
    if result.minus_baseline is None or teacher is None:
        return ""
    return "-" if result.gap_closed is None else result.gap_closed.shown()


def markdown(table: Sequence[Sequence[str]], note: str) -> str:
    """Rows as a Markdown table, numbers on the right, with a note below."""
    head, *body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def note(missing: Sequence[str] = ()) -> str:
    """How to read the table, and the runs that it lacks."""
    text = (
        "±: half width of the 95 % confidence interval of the mean over the seeds (Student's t); minus baseline is "
        "paired by seed. Gap closed: mean(arm - baseline) / mean(teacher - baseline) with Fieller's 95 % interval; - "
        "with fewer than two seeds, or where the teacher cannot be told from the baseline."
    )
    return text + (f" Not finished: {', '.join(missing)}." if missing else "")
