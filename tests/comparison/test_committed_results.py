"""The comparisons in results/ are what this code makes of the logs beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eyas.comparison.presentation import markdown, note, rows
from eyas.comparison.statistics import compare_arms
from eyas.runs.results import read_run
from eyas.tools.files import json_text

COMPARISONS = sorted((Path(__file__).parents[2] / "results").glob("*/comparison.json"))


def test_there_are_comparisons() -> None:
    assert len(COMPARISONS) >= 6


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.parent.name)
def test_logs_give_the_committed_numbers(file: Path) -> None:
    kept: dict[str, Any] = json.loads(file.read_text())
    configs, missing = kept.pop("configs"), kept.pop("missing")
    for measured in ("cost", "data_hash", "seconds"):  # of the demo alone
        kept.pop(measured, None)
    assert list(kept["arms"]) == list(configs)
    runs = {
        name: {seed: read_run(file.parent / f"{name}-{seed}") for seed in arm["seeds"]}
        for name, arm in kept["arms"].items()
    }
    made = compare_arms(runs, kept["metric"])
    assert json.loads(json_text(asdict(made))) == kept
    assert markdown(rows(made), note(missing)) == file.with_suffix(".md").read_text()
