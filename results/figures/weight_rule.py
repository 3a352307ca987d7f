"""Draws docs/images/weight_rule.png and prints the tables of docs/weight.md, from the comparisons of fractions.

``python results/figures/weight_rule.py``
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
PAIRS = {
    "digits": "the demo's pair, other digits",
    "bccd": "blood cells, one stage",
    "two_stage": "blood cells, two stages",
    "unlike": "blood cells, Faster R-CNN to RetinaNet",
}
FRACTIONS = {"fraction_1": 1.0, "fraction_3": 3.0, "fraction_10": 10.0, "fraction_30": 30.0}
ARMS = {
    "fraction_1": "1",
    "fraction_3": "3",
    "fraction_10": "10",
    "fraction_30": "30",
    "falling_10": "10, falling to 1",
}
COLOURS = ("#009e73", "#d55e00", "#0072b2", "#cc79a7")


def gains(pair: str) -> dict[str, dict[str, Any]]:
    """Arm -> mAP minus the baseline's, paired by seed: its mean, half width and values; empty where nothing was run."""
    file = ROOT / "results" / f"weight_rule_{pair}" / "comparison.json"
    if not file.is_file():
        return {}
    arms = json.loads(file.read_text())["arms"]
    return {arm: values["metrics"]["map"]["minus_baseline"] for arm, values in arms.items() if arm != "baseline"}


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = ["| fraction | " + " | ".join(PAIRS[pair] for pair in found) + " |", "| --- |" + " ---: |" * len(found)]
    for arm, label in ARMS.items():
        own = [found[pair].get(arm) for pair in found]
        cells = ["" if gain is None else f"{gain['mean']:+.3f} ± {gain['half_width']:.3f}" for gain in own]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def weights(pair: str, arm: str) -> list[float]:
    """FGFI's weight after a tenth, after half and at the end of the training, and its loss without the weight there.

    Means over the seeds; of the loss, over the last three lines of each log too. Empty where nothing was run.
    """
    rows = []
    for file in sorted((ROOT / "results").glob(f"weight_rule_{pair}/{arm}-[0-9]/log.jsonl")):
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
        for arm in FRACTIONS:
            if found := weights(pair, arm):
                lines.append(f"| {name} | {ARMS[arm]} | " + " | ".join(f"{value:.2g}" for value in found) + " |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, (pair, arms) in enumerate(found.items()):
        curve = [(value, arms[arm]) for arm, value in FRACTIONS.items() if arm in arms]
        # Beside one another, so that the intervals can be told apart.
        x = [value * 1.05 ** (index - 1.5) for value, _ in curve]
        y, widths = [gain["mean"] for _, gain in curve], [gain["half_width"] for _, gain in curve]
        axes.errorbar(x, y, widths, marker="o", capsize=3, color=COLOURS[index], label=PAIRS[pair])
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xscale="log", xlabel="fraction", ylabel="mAP minus baseline")
    axes.set_xticks(list(FRACTIONS.values()), [f"{value:g}" for value in FRACTIONS.values()], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    found = {pair: arms for pair in PAIRS if (arms := gains(pair))}
    draw(found, ROOT / "docs" / "images" / "weight_rule.png")
    print(table(found))
    print(weight_table())


if __name__ == "__main__":
    main()
