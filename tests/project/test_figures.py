"""results/figures: the rule by which defaults are chosen, on fields made up for it; and the tables of the pages."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "results" / "figures"


def script(name: str) -> Any:
    """A script of results/figures as a module. They import one another, as they do when they are run."""
    sys.path.insert(0, str(FIGURES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FIGURES))


field, pages = script("field"), script("pages")
NOISE = (0.0, 0.01, -0.01, 0.005, -0.005)
"""What each of five seeds does to all arms alike, so that it cancels."""
JITTER = (0.001, -0.001, 0.0005, -0.0005, 0.0)


def made(**gains: tuple[float, float, float, float]) -> Any:
    """A field of three pairs: of each method its mAP over 0.4 on each of them, and its seconds in a step."""
    gains = {"baseline": (0.0, 0.0, 0.0, 1.0), "fgfi": (0.05, 0.05, 0.05, 1.1), **gains}
    return {
        pair: {
            name: field.Arm(
                tuple(
                    0.4 + values[index] + a + (b if name == "fgfi" else 0.0) for a, b in zip(NOISE, JITTER, strict=True)
                ),
                values[3],
            )
            for name, values in gains.items()
        }
        for index, pair in enumerate(field.PAIRS)
    }


def chosen(found: Any, *candidates: str) -> str:
    name: str = field.default_by_rule(found, candidates)
    return name


def test_fgfi_stays_where_nobody_is_ahead_of_it() -> None:
    assert chosen(made(pkd=(0.05, 0.05, 0.05, 1.1), cwd=(0.01, 0.01, 0.01, 1.0)), "pkd", "cwd") == "fgfi"


def test_one_that_is_ahead_on_the_whole_and_nowhere_behind_replaces_it() -> None:
    assert chosen(made(pkd=(0.06, 0.05, 0.06, 1.1)), "fgfi", "pkd") == "pkd"


def test_one_that_is_behind_on_a_pair_does_not() -> None:
    assert chosen(made(pkd=(0.10, 0.04, 0.10, 1.1)), "pkd") == "fgfi"


def test_one_that_costs_more_than_a_quarter_more_does_not() -> None:
    assert chosen(made(pkd=(0.06, 0.06, 0.06, 1.1 * 1.26)), "pkd") == "fgfi"
    assert chosen(made(pkd=(0.06, 0.06, 0.06, 1.1 * 1.24)), "pkd") == "pkd"


def test_of_two_the_better_one_counts_and_of_equals_the_cheaper_one() -> None:
    assert chosen(made(pkd=(0.06, 0.06, 0.06, 1.1), cwd=(0.08, 0.08, 0.08, 1.2)), "pkd", "cwd") == "cwd"
    assert chosen(made(pkd=(0.08, 0.08, 0.08, 1.1), cwd=(0.08, 0.08, 0.08, 1.2)), "cwd", "pkd") == "pkd"


def test_a_candidate_is_a_single_method_that_needs_nothing_special() -> None:
    better = (0.06, 0.06, 0.06, 1.1)
    assert field.candidates(made(pkd=better, bckd=better, fgfi_pkd=better)) == ["pkd", "fgfi"]


def test_a_difference_is_paired_by_seed() -> None:
    found = made(pkd=(0.06, 0.06, 0.06, 1.1))
    difference = field.minus(found["field_bccd"]["pkd"], found["field_bccd"]["fgfi"])
    assert round(difference.mean, 6) == 0.01
    assert difference.half_width < 0.0015, "what a seed does to both arms cancels"


def test_the_tables_have_every_method_the_best_first_and_gaps_where_one_does_not_apply() -> None:
    found = made(pkd=(0.06, 0.06, 0.06, 1.1), bckd=(0.01, 0.01, 0.01, 1.0))
    del found["field_bccd_unlike"]["bckd"]
    rows = [line.split(" | ") for line in field.gains_table(found).splitlines()[3:]]
    assert [row[0].strip("| ") for row in rows] == ["`pkd`", "`fgfi`", "`bckd`"]
    assert rows[0][1:3] == ["+0.060 ± 0.000", "1.10"]
    assert [cell.strip(" |") for cell in rows[2]] == [
        "`bckd`",
        "+0.010 ± 0.000",
        "1.00",
        "+0.010 ± 0.000",
        "1.00",
        "",
        "",
    ]
    ahead = field.ahead_table(found).splitlines()[2:]
    assert ahead[0].startswith("| `pkd` | +0.010 ±") and ahead[1].endswith("|  |  |")


@pytest.mark.parametrize("part", [*pages.parts()], ids=lambda part: f"{part.page.stem}: {part.mark}")
def test_what_the_pages_say_of_the_results_is_what_they_are(part: Any) -> None:
    """``python results/figures/pages.py`` writes it."""
    assert part.written() == part.text()
