"""The comparisons of all methods as tables, and the default method by the rule of docs/questions/which_method.md.

``python results/figures/field.py`` prints the default, once all of `PAIRS` have a comparison; the tables are written by
pages.py.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from eyas.commands.methods import facts
from eyas.commands.names import METHODS
from eyas.comparison.arms import split_schedule
from eyas.comparison.statistics import Estimate, estimate

RESULTS = Path(__file__).parents[1]
PAIRS = {
    "field_digits": "digits: RetinaNet",
    "field_bccd": "blood cells: RetinaNet",
    "field_bccd_unlike": "blood cells: Faster R-CNN to RetinaNet",
}
"""The pairs that the default is chosen on -> their titles."""
UNLIKE = {
    "field_bccd_unlike": "Faster R-CNN to RetinaNet, blood cells",
    "unlike_shuffledet": "ShuffleDet to RetinaNet, faint digits",
    "unlike_yolo": "RetinaNet to YOLOv9, digits",
}
"""Pairs whose heads mean different things -> their titles."""
SEVERAL = {
    "fgfi_pkd": "`fgfi,pkd`",
    "fgfi_bckd": "`fgfi,bckd`",
    "pkd_bckd": "`pkd,bckd`",
    "fgfi_frs": "`fgfi,frs`",
    "pkd_crosskd": "`pkd,crosskd`",
    "fgfi_inherit": "`fgfi`, `--inherit true`",
}
"""Arm with more than one method, or with more than a method -> how the command line has it."""
DEFAULT, BASELINE = "fgfi", "baseline"
ANY_PAIR_HAS = {"feature maps", "anchors", "boxes"}
"""What a method may need that can be the default."""
DEARER = 1.25
"""The time of a default's step over that of FGFI's, at most."""


class Arm(NamedTuple):
    """mAP by seed, and the seconds of a step."""

    values: tuple[float, ...]
    seconds: float


Field = Mapping[str, Mapping[str, Arm]]
"""Pair -> arm, the baseline among them -> what it reached."""


def read(folders: Iterable[str], results: Path = RESULTS) -> dict[str, dict[str, Arm]]:
    """What was measured, by folder of results; those without a comparison are left out, and baselines of equal time."""
    files = {folder: results / folder / "comparison.json" for folder in folders}
    return {
        folder: {
            name: Arm(tuple(arm["metrics"]["map"]["values"]), arm["seconds_per_step"])
            for name, arm in json.loads(file.read_text())["arms"].items()
            if split_schedule(name)[1] is None
        }
        for folder, file in files.items()
        if file.is_file()
    }


def minus(one: Arm, other: Arm) -> Estimate:
    """The difference paired by seed."""
    return estimate([a - b for a, b in zip(one.values, other.values, strict=True)])


def over_all(field: Field, method: str, other: str) -> Estimate:
    """The difference of two methods, of each seed the mean over the pairs."""
    by_pair = [minus(arms[method], arms[other]).values for arms in field.values()]
    return estimate([statistics.fmean(of_seed) for of_seed in zip(*by_pair, strict=True)])


def everywhere(field: Field, method: str) -> bool:
    """Whether a method was run on every pair."""
    return all(method in arms for arms in field.values())


def below_zero(difference: Estimate) -> bool:
    return difference.mean + (difference.half_width or 0) < 0


def above_zero(difference: Estimate) -> bool:
    return difference.mean - (difference.half_width or 0) > 0


def cost(field: Field, method: str, other: str) -> float:
    """The time of a method's step over another one's, a mean over the pairs."""
    return statistics.fmean(arms[method].seconds / arms[other].seconds for arms in field.values())


def replaces(field: Field, method: str, default: str) -> bool:
    """Whether a method replaces the default, by the rule of docs/questions/which_method.md."""
    return (
        above_zero(over_all(field, method, default))
        and not any(below_zero(minus(arms[method], arms[default])) for arms in field.values())
        and cost(field, method, default) <= DEARER
    )


def default_by_rule(field: Field, candidates: Iterable[str], default: str = DEFAULT) -> str:
    """The default among candidates that apply to every pair: the best of those that replace the present one.

    Where the interval of the difference to a cheaper one holds 0, the cheaper one is taken instead.
    """
    left = [name for name in candidates if name != default and replaces(field, name, default)]
    if not left:
        return default
    best = max(left, key=lambda name: over_all(field, name, default).mean)
    equal = [name for name in left if name == best or not above_zero(over_all(field, best, name))]
    return min(equal, key=lambda name: cost(field, name, default))


def methods(field: Field) -> list[str]:
    """The methods of any pair, by the mean of their gains."""
    names = {name for arms in field.values() for name in arms if name != BASELINE}
    gains = {
        name: statistics.fmean(minus(arms[name], arms[BASELINE]).mean for arms in field.values() if name in arms)
        for name in names
    }
    return sorted(names, key=lambda name: -gains[name])


def candidates(field: Field) -> list[str]:
    """The single methods that were run on every pair and can be the default."""
    single = [name for name in methods(field) if name in METHODS and everywhere(field, name)]
    return [name for name in single if set(facts(name).needs) <= ANY_PAIR_HAS]


def shown(name: str) -> str:
    """An arm as the command line has it."""
    return SEVERAL.get(name, f"`{name}`")


def gains_table(field: Field, titles: Mapping[str, str] = PAIRS) -> str:
    """mAP minus the baseline's, and the time of a step over the baseline's."""
    head = [f"{titles[pair]} | step" for pair in field]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * 2 * len(field)]
    means = [f"{statistics.fmean(arms[BASELINE].values):.3f} | 1" for arms in field.values()]
    lines.append(f"| the baseline's mAP | {' | '.join(means)} |")
    for name in methods(field):
        cells = [
            f"{minus(arms[name], arms[BASELINE]).shown(sign='+')} | {arms[name].seconds / arms[BASELINE].seconds:.2f}"
            if name in arms
            else " | "
            for arms in field.values()
        ]
        lines.append(f"| {shown(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ahead_table(field: Field) -> str:
    """mAP minus FGFI's on each pair, and over all where a method applies to all."""
    several = len(field) > 1
    head = [*(PAIRS[pair] for pair in field), *(["all"] if several else [])]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for name in methods(field):
        if name == DEFAULT:
            continue
        cells = [minus(arms[name], arms[DEFAULT]).shown(sign="+") if name in arms else "" for arms in field.values()]
        if several:
            cells.append(over_all(field, name, DEFAULT).shown(sign="+") if everywhere(field, name) else "")
        lines.append(f"| {shown(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def weights_table(automatic: Mapping[str, Arm], others: Mapping[str, Arm]) -> str:
    """mAP minus the baseline's of one pair at other weights: arms ``NAME_0.3`` and ``NAME_published``."""
    lines = ["| | `auto` | a tenth of its fraction | published for RetinaNet |", "| --- |" + " ---: |" * 3]
    for name in dict.fromkeys(other.rpartition("_")[0] for other in others if other != BASELINE):
        arms = (automatic.get(name), others.get(f"{name}_0.3"), others.get(f"{name}_published"))
        gains = ["" if arm is None else minus(arm, automatic[BASELINE]).shown(sign="+") for arm in arms]
        lines.append(f"| {shown(name)} | {' | '.join(gains)} |")
    return "\n".join(lines)


def measured(field: Field, name: str) -> str:
    """The sentence on the page of a method that was run on some pair."""
    gains = [
        f"{minus(arms[name], arms[BASELINE]).shown(sign='+')} ({PAIRS[pair]})"
        for pair, arms in field.items()
        if name in arms
    ]
    before = "Measured here, mAP minus [the baseline's](../questions/which_method.md), with its defaults"
    return textwrap.fill(f"{before}: {', '.join(gains)}.", 140)


def main() -> None:
    field = read(PAIRS)
    if missing := PAIRS.keys() - field.keys():
        raise SystemExit(f"no comparison in results/: {', '.join(sorted(missing))}")
    names = candidates(field)
    print(f"candidates: {', '.join(names)}; the default by the rule: {default_by_rule(field, names)}")


if __name__ == "__main__":
    main()
