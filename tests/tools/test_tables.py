"""Tables in a terminal's width, in a pipe and as text."""

from __future__ import annotations

import re

import pytest

from eyas.tools.tables import as_text, listed, print_table

ROWS = [["class", "map", "map_50"], ["a [red] cell", "0.1", "-"], ["b", "12.000", ""]]


def test_text_puts_names_left_and_numbers_right() -> None:
    assert as_text(ROWS).splitlines() == [
        "class            map  map_50",
        "a [red] cell     0.1       -",
        "b             12.000",
    ]


def test_text_without_numbers_goes_left() -> None:
    assert as_text([["torch", "2.9"], ["numpy", "2.3.1"], ["extra", ""]], numbers=False) == (
        "torch  2.9\nnumpy  2.3.1\nextra"
    )
    assert as_text([]) == ""


def test_a_long_list_is_cut() -> None:
    names = [f"run-{number}" for number in range(9)]
    assert listed(names) == "run-0, run-1, run-2, run-3, run-4, run-5, run-6, run-7 and 1 more"
    assert (listed(names, 9), listed(names[:2]), listed([])) == (", ".join(names), "run-0, run-1", "")


def test_a_pipe_gets_whole_rows_in_ascii(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    long = [["", *(f"column {place}" for place in range(20))], ["arm", *["0.123 +- 0.045"] * 20]]
    print_table(long, title="Title", caption="A note.")
    printed = capsys.readouterr().out
    assert printed.isascii()
    (row,) = (line.split() for line in printed.splitlines() if "arm" in line)
    assert row == ["arm", *["0.123", "+-", "0.045"] * 20]
    assert any(set(line.strip()) == {"-"} for line in printed.splitlines()), "a rule below the head"


def test_a_terminal_gets_its_own_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "40")
    print_table([["", "a long heading of a column"], ["arm", "a long cell that has to be folded to fit"]])
    words = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, words.splitlines())) <= 40
    assert "folded to fit" in words, "folded and not cut"
