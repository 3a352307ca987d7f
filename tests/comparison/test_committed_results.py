"""The comparisons in results/ are what this code makes of the logs beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eyas.comparison.equal_time import read_decided
from eyas.comparison.presentation import as_markdown
from eyas.comparison.schedules import compare_schedules
from eyas.comparison.statistics import compare_arms, minus_reference
from eyas.runs.results import read_run, read_time
from eyas.tools.files import json_text

COMPARISONS = sorted((Path(__file__).parents[2] / "results").glob("*/comparison.json"))


def test_there_are_comparisons() -> None:
    assert len(COMPARISONS) >= 6


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.parent.name)
def test_logs_give_the_committed_numbers(file: Path) -> None:
    kept: dict[str, Any] = json.loads(file.read_text())
    configs, missing = kept.pop("configs"), kept.pop("missing")
    for measured in ("cost", "data", "data_hash", "image_size", "seconds"):  # of the demo alone
        kept.pop(measured, None)
    assert list(kept["arms"]) == list(configs)
    runs = {
        name: {seed: read_run(file.parent / f"{name}-{seed}") for seed in arm["seeds"]}
        for name, arm in kept["arms"].items()
    }
    times = {
        name: {seed: time for seed in arm["seeds"] if (time := read_time(file.parent / f"{name}-{seed}")) is not None}
        for name, arm in kept["arms"].items()
    }
    schedules, reference = kept.pop("schedules", None), kept.pop("reference", None)
    made = compare_arms(runs, kept["metric"])
    timed = compare_schedules(runs, times, read_decided(file.parent), made.metric)
    beside = None if reference is None else minus_reference(made, reference["arm"])
    assert json.loads(json_text(asdict(made))) == kept
    assert (None if beside is None else json.loads(json_text(asdict(beside)))) == reference
    assert (None if timed is None else json.loads(json_text(asdict(timed)))) == schedules
    assert as_markdown(made, timed, missing, beside) == file.with_suffix(".md").read_text()
