"""Colours of arms and teacher, the same on every chart of the page and in its legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eyas.report.markup import Html, legend
from eyas.report.plots import COLOURS
from eyas.report.runs import TEACHER

TEXT_COLOUR = -1
"""Instead of an index in `eyas.report.plots.COLOURS`: the colour of the text, which is the teacher's."""


def colour_of(name: str, arms: Sequence[str]) -> int:
    """The colour of a detector: the index of its arm, or `TEXT_COLOUR` for the teacher."""
    return TEXT_COLOUR if name == TEACHER else list(arms).index(name)


def css_colour(index: int) -> str:
    """The CSS value of a colour, a variable of the style sheet."""
    return "currentColor" if index == TEXT_COLOUR else f"var(--c{index % len(COLOURS)})"


def arm_legend(arms: Iterable[str]) -> Html:
    """The colours of all arms."""
    return legend({arm: css_colour(index) for index, arm in enumerate(arms)}, label="Colours of the arms")


def detector_legend(names: Sequence[str], arms: Sequence[str]) -> Html:
    """The colours of some detectors: arms, and the teacher."""
    return legend({name: css_colour(colour_of(name, arms)) for name in names}, label="Colours of the detectors")
