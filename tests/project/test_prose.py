"""The prose check of `make lint` finds what it should, and nothing else."""

from __future__ import annotations

import pytest

from helpers.prose import pages, strange


@pytest.mark.parametrize(
    "text",
    [
        "A dead worker is told of.",
        "# the value in place\n    # of the default",
        '"""Of each image: its boxes."""',
        "Sorted by score. Of equal ones the first.",
        "the step in hand",
        "the weight comes\nto 2.5",
        "Whoever reads it waits.",
        "nobody waits for the device",
        "what it says of itself",
    ],
)
def test_phrases_to_avoid_are_found(text: str) -> None:
    (found,) = strange(text)
    assert found[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        "one in the place of records",
        "the mean of the losses",
        "handled in handlers",
        "welcomes tourists",
        "the share of it is told, of course",
    ],
)
def test_innocent_phrases_are_not(text: str) -> None:
    assert list(strange(text)) == []


def test_code_pages_and_tests_are_searched() -> None:
    names = {path.name for path in pages()}
    assert {"README.md", "method.md", "trainer.py", "test_trainer.py", "fgfi.yaml"} <= names
