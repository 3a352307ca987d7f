"""The table of what each level has of a term's loss, from the logs of runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from eyas.report.runs import Arms
from eyas.report.sections.curves import _shares


def arms(**steps: list[dict[str, Any]]) -> Arms:
    return cast(Arms, {name: {0: SimpleNamespace(steps=lines)} for name, lines in steps.items()})


def test_shares_are_means_over_the_logged_steps() -> None:
    lines = [{"shares": {"fgd": {"P3": 0.9, "P4": 0.1}}}, {"shares": {"fgd": {"P3": 0.7, "P4": 0.3}}}]
    html = "".join(_shares(arms(baseline=[{}], fgd=lines)))
    assert "P3 80%, P4 20%" in html and '<th scope="row">fgd' in html
    assert "baseline" not in html


def test_a_log_without_shares_has_no_table() -> None:
    assert _shares(arms(before=[{"losses": {}}])) == []
    html = "".join(_shares(arms(undefined=[{"shares": {"fgd": {"P3": None, "P4": 0.5}}}])))
    assert "P4 50%" in html and "P3" not in html
