"""What a comparison says: means with their intervals, paired differences from plain, gap closed, cost. All pure.

Runs of one seed share initial weights and the order of the data, so arms are compared seed by seed: what the seeds
have in common drops out of the difference, and its interval is the one that tells whether a method helps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from eyas.comparison.arms import PLAIN
from eyas.runs.results import RunResult

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half_width: of the 95 % interval around it, by Student's t with n - 1 degrees of freedom; None for one value.
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
    count = len(values)
    half_width = None
    if count > 1:
        quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
        half_width = quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(statistics.fmean(values), half_width, tuple(values))


def paired_difference(method: Mapping[int, float], plain: Mapping[int, float]) -> Estimate | None:
    """Method less plain over the seeds that both have, by seed to value; None where they have none in common."""
    seeds = [seed for seed in method if seed in plain]
    return estimate([method[seed] - plain[seed] for seed in seeds]) if seeds else None


def gap_closed(method: float, plain: float, teacher: float) -> float | None:
    """The share of the way from plain to teacher that a method goes; None where the teacher is not above plain."""
    return (method - plain) / (teacher - plain) if teacher > plain else None


# The report --------------------------------------------------------------------------------------------------------


def report(runs: Mapping[str, Mapping[int, RunResult]], figure: str | None = None) -> dict[str, Any]:
    """Every figure of a comparison, ready for JSON.

    Args:
        runs: arm -> seed -> finished run; an arm may have none.
        figure: the figure to rank by; "map", or "map_50" where the metric has one threshold alone, when None.

    Raises:
        KeyError: the runs have no such figure.
    """
    finished = [run for arm in runs.values() for run in arm.values()]
    if not finished:
        return {"figure": figure, "teacher": None, "arms": {}}
    figure = figure or ("map" if "map" in finished[0].summary else "map_50")
    if figure not in finished[0].summary:
        raise KeyError(figure)
    taught = [run.teacher for run in finished if run.teacher is not None]
    teacher = {name: statistics.fmean(run[name] for run in taught) for name in taught[0]} if taught else None
    plain = runs.get(PLAIN, {})
    arms = {name: _arm(arm, plain, teacher) for name, arm in runs.items() if arm}
    return {"figure": figure, "confidence": CONFIDENCE, "teacher": teacher, "arms": arms}


def _arm(
    arm: Mapping[int, RunResult], plain: Mapping[int, RunResult], teacher: Mapping[str, float] | None
) -> dict[str, Any]:
    """One arm: of each figure the estimate, and beside it what it gains over plain."""
    names = next(iter(arm.values())).summary
    figures = {}
    for name in names:
        values = {seed: run.summary[name] for seed, run in arm.items()}
        base = {seed: run.summary[name] for seed, run in plain.items()}
        gain = None if arm is plain else paired_difference(values, base)
        figures[name] = {
            **asdict(estimate(list(values.values()))),
            "minus_plain": None if gain is None else asdict(gain),
            "gap_closed": None if gain is None or teacher is None else _gap(values, base, teacher[name]),
        }
    seconds = [run.seconds_per_step for run in arm.values() if run.seconds_per_step is not None]
    return {
        "seeds": list(arm),
        "figures": figures,
        "seconds_per_step": statistics.median(seconds) if seconds else None,
        "peak_memory": max((run.peak_memory or 0 for run in arm.values()), default=0) or None,
        "peak_device_memory": max((run.peak_device_memory or 0 for run in arm.values()), default=0) or None,
        "runs": {str(seed): asdict(run) for seed, run in arm.items()},
    }


def _gap(method: Mapping[int, float], plain: Mapping[int, float], teacher: float) -> float | None:
    """Of the means over the seeds that both have: a ratio for each seed would blow up where the gap is small."""
    seeds = [seed for seed in method if seed in plain]
    own, base = (statistics.fmean(values[seed] for seed in seeds) for values in (method, plain))
    return gap_closed(own, base, teacher)


# Tables ------------------------------------------------------------------------------------------------------------


def rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """The table as text, its head first: the teacher, then the arms in their order."""
    main = figures["figure"]
    shown = [name for name in (main, "map_50") if name in next(iter(figures["arms"].values()))["figures"]]
    shown = list(dict.fromkeys(shown))
    head = ["", *map(title, shown), "minus plain", "gap closed", "s/step", "memory", "seeds"]
    table = [head]
    if figures["teacher"] is not None:
        table.append(["teacher", *(f"{figures['teacher'][name]:.3f}" for name in shown), *[""] * 5])
    for name, arm in figures["arms"].items():
        gain, closed = (arm["figures"][main][key] for key in ("minus_plain", "gap_closed"))
        seconds, memory = arm["seconds_per_step"], arm["peak_device_memory"] or arm["peak_memory"]
        table.append([
            name,
            *(_estimate(arm["figures"][each]).shown() for each in shown),
            "" if gain is None else _estimate(gain).shown(sign="+"),
            "" if closed is None else f"{closed:.0%}",
            "" if seconds is None else f"{seconds:.3f}",
            "" if memory is None else f"{memory / 2**20:.0f} MiB",
            str(len(arm["seeds"])),
        ])  # fmt: skip
    return table


def markdown(table: Sequence[Sequence[str]], note: str) -> str:
    """Rows as a Markdown table, numbers to the right, with a note below."""
    head, *body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def title(figure: str) -> str:
    """How a figure is called in a table: ``map`` is mAP, which with COCO's metric is mAP50:95."""
    return figure.replace("map_", "mAP ").replace("map", "mAP").replace("mAP 50", "mAP50").replace("mAP 75", "mAP75")


def _estimate(values: Mapping[str, Any]) -> Estimate:
    return Estimate(values["mean"], values["half_width"], tuple(values["values"]))


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
