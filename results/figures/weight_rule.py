"""The tables of docs/weight_rule.md from the comparisons of weights, and the default weight by the rule.

``python results/figures/weight_rule.py`` draws docs/images/weight_rule.png and prints the default; pages.py writes the
tables.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

from field import BASELINE, RESULTS, Field, default_by_rule, everywhere, minus, over_all, read
from matplotlib.figure import Figure

PAIRS = {
    "weight_rule_digits": "the demo's pair, other digits",
    "weight_rule_bccd": "blood cells, one stage",
    "weight_rule_two_stage": "blood cells, two stages",
    "weight_rule_unlike": "blood cells, Faster R-CNN to RetinaNet",
}
FRACTIONS = {"fraction_1": 1.0, "fraction_3": 3.0, "fraction_10": 10.0, "fraction_30": 30.0}
RULES = {
    "fraction_1": "1",
    "fraction_3": "3",
    "fraction_10": "10",
    "fraction_30": "30",
    "falling_10": "10, falling to 1",
}
NUMBERS = {"weight_0.1": "the weight 0.1", "weight_1": "the weight 1"}
OTHERS = {
    "projected_level": "3, projected by level",
    "projected_cell": "3, projected by cell",
    "levelled": "3, one ratio on every level",
    "uncertainty": "a learned uncertainty",
}
DEFAULT = "fraction_3"
COLOURS = ("#009e73", "#d55e00", "#0072b2", "#cc79a7")


def table(found: Field, rows: Mapping[str, str] = RULES | NUMBERS | OTHERS) -> str:
    """mAP of baseline and teacher, and mAP minus the baseline's of the named arms, label by name."""
    lines = ["| rule | " + " | ".join(PAIRS[pair] for pair in found) + " |", "| --- |" + " ---: |" * len(found)]
    before = [f"{statistics.fmean(arms[BASELINE].values):.3f}, {teacher(pair):.3f}" for pair, arms in found.items()]
    lines.append(f"| the baseline's mAP, and the teacher's | {' | '.join(before)} |")
    for arm, label in rows.items():
        cells = [minus(arms[arm], arms[BASELINE]).shown(sign="+") if arm in arms else "" for arms in found.values()]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def teacher(pair: str) -> float:
    """The teacher's mAP on the images of a pair."""
    return float(json.loads((RESULTS / pair / "comparison.json").read_text())["teacher"]["map"])


def summary(found: Field) -> str:
    """The table of docs/weight.md: the constant fractions alone."""
    return table(found, {arm: f"fraction {RULES[arm]}" for arm in FRACTIONS})


def against_numbers(found: Field) -> str:
    """Each rule minus the better number of each pair, paired by seed; and, over all pairs, minus the default."""
    best = {
        pair: max(NUMBERS, key=lambda name: statistics.fmean(arms[name].values))
        for pair, arms in found.items()
        if NUMBERS.keys() <= arms.keys()
    }
    head = [*(f"{PAIRS[pair]}: minus {NUMBERS[name]}" for pair, name in best.items()), "all: minus 3"]
    lines = [f"| rule | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for arm, label in RULES.items():
        cells = [minus(found[pair][arm], found[pair][name]).shown(sign="+") for pair, name in best.items()]
        compared = arm != DEFAULT and everywhere(found, arm)
        cells.append(over_all(found, arm, DEFAULT).shown(sign="+") if compared else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def weights(pair: str, arm: str) -> list[float]:
    """FGFI's weight after a tenth, after half and at the end of the training, and its loss without the weight there.

    Means over the seeds; of the loss, over the last three lines of each log too. Empty where nothing was run.
    """
    rows = []
    for file in sorted(RESULTS.glob(f"{pair}/{arm}-[0-9]/log.jsonl")):
        lines = [line for line in map(json.loads, file.read_text().splitlines()) if line["kind"] == "train"]
        last = lines[-1]["step"]
        after = [next(line for line in lines if line["step"] >= share * last) for share in (0.1, 0.5, 1.0)]
        loss = statistics.fmean(line["losses"]["fgfi"] / line["weights"]["fgfi"] for line in lines[-3:])
        rows.append([*(line["weights"]["fgfi"] for line in after), loss])
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def weight_table() -> str:
    lines = [
        "| | fraction | weight after a tenth | after half | at the end | loss without it |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for pair, name in PAIRS.items():
        shown = f" {name} "
        for arm in FRACTIONS:
            if found := weights(pair, arm):
                lines.append(f"|{shown}| {RULES[arm]} | " + " | ".join(f"{value:.2g}" for value in found) + " |")
                shown = " "
    return "\n".join(lines)


def gradient_table() -> str:
    """What `benchmarks.weight_candidates.MeasuredFGFI` wrote, over the second half of the lines of each pair.

    All levels together, medians: the norm of the detection gradient at near cells over that at all, and the cosine
    between both gradients. Then the share of lines in which the two are opposed on some level, and level by level, the
    finest first, the ratio of both norms over that of all levels, medians.
    """
    lines = [
        "| | detection gradient at near cells, of all | cosine | opposed on some level "
        "| ratio by level, of that of all |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for pair, name in PAIRS.items():
        file = RESULTS / "weight_gradients" / f"{pair.removeprefix('weight_rule_')}.jsonl"
        if not file.is_file():
            continue
        rows = [json.loads(line)["levels"] for line in file.read_text().splitlines()]
        rows = rows[len(rows) // 2 :]
        near, cosines, ratios = [], [], []
        for row in rows:
            detection, imitation, at_near, cosine = zip(*row, strict=True)
            product = sum(one * other * angle for one, other, angle in zip(detection, imitation, cosine, strict=True))
            whole, imitated = math.hypot(*detection), math.hypot(*imitation)
            near.append(math.hypot(*at_near) / whole)
            cosines.append(product / (whole * imitated))
            ratios.append([other / one * whole / imitated for one, other in zip(detection, imitation, strict=True)])
        opposed = statistics.fmean(any(cosine < 0 for *_, cosine in row) for row in rows)
        levels = ", ".join(f"{statistics.median(level):.1f}" for level in zip(*ratios, strict=True))
        lines.append(
            f"| {name} | {statistics.median(near):.2f} | {statistics.median(cosines):+.2f} | {opposed:.0%} | {levels} |"
        )
    return "\n".join(lines)


def draw(found: Field, path: Path) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, (pair, arms) in enumerate(found.items()):
        curve = {value: minus(arms[arm], arms[BASELINE]) for arm, value in FRACTIONS.items() if arm in arms}
        # Beside one another, so that the intervals can be told apart.
        x = [value * 1.05 ** (index - 1.5) for value in curve]
        y, widths = [gain.mean for gain in curve.values()], [gain.half_width for gain in curve.values()]
        axes.errorbar(x, y, widths, marker="o", capsize=3, color=COLOURS[index], label=PAIRS[pair])
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xscale="log", xlabel="fraction", ylabel="mAP minus baseline")
    axes.set_xticks(list(FRACTIONS.values()), [f"{value:g}" for value in FRACTIONS.values()], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    found = read(PAIRS)
    draw(found, RESULTS.parent / "docs" / "images" / "weight_rule.png")
    candidates = [arm for arm in RULES if everywhere(found, arm)]
    print(f"the default of {', '.join(candidates)} by the rule: {default_by_rule(found, candidates, DEFAULT)}")


if __name__ == "__main__":
    main()
