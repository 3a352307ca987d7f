"""Matplotlib figures as SVG inside the page, and the colours that they share with its legends.

Matplotlib has no dark mode, but its SVG names every colour. Once a figure is drawn, variables of the style sheet
replace them: the colour of the text replaces black, ``--c0`` to ``--c9`` replace `eyas.report.plots.COLOURS`. Text
stays text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from eyas.report.markup import Html, legend
from eyas.report.plots import COLOURS, rendered
from eyas.report.runs import TEACHER

TEXT_COLOUR = -1
"""Instead of an index in `eyas.report.plots.COLOURS`: the colour of the text, which is the teacher's."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "eyas",
    "savefig.transparent": True,
    "font.sans-serif": ["DejaVu Sans"],
}
PIXELS_PER_POINT = 1.25


def colour_of(name: str, arms: Iterable[str]) -> int:
    """The colour of a detector on every chart: the index of its arm, or `TEXT_COLOUR` for the teacher."""
    return TEXT_COLOUR if name == TEACHER else list(arms).index(name)


def css_colour(index: int) -> str:
    """The CSS value of a colour, a variable of the style sheet."""
    return "currentColor" if index == TEXT_COLOUR else f"var(--c{index % len(COLOURS)})"


def colour_legend(names: Iterable[str], arms: Iterable[str], *, of: str = "detectors") -> Html:
    """The colours of some detectors: arms, and the teacher."""
    return legend({name: css_colour(colour_of(name, arms)) for name in names}, label=f"Colours of the {of}")


def drawing(draw: Callable[[], Figure], label: str) -> Html:
    """What ``draw`` draws, as SVG for the page: no prolog or metadata, unique ids, colours by variable.

    Args:
        draw: makes the figure.
        label: what it shows, for screen readers.
    """
    svg = rendered(draw, "svg", STYLE).decode()
    head, _, body = svg[svg.index("<svg") :].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Two figures in one page must not share ids, which matplotlib counts from 1 in each.
    mark = "f" + hashlib.sha256((label + svg).encode()).hexdigest()[:8] + "-"
    body = re.sub(r'(<[^>]*?\bid=")', rf"\g<1>{mark}", body)
    body = body.replace("url(#", f"url(#{mark}").replace('xlink:href="#', f'href="#{mark}')
    colours = {matplotlib.colors.to_hex(colour): css_colour(index) for index, colour in enumerate(COLOURS)}
    colours |= {"#000000": "currentColor", "#666666": "var(--muted)"}
    pattern = re.compile("|".join(colours))
    # Inside tags only: text between them, names included, stays.
    body = re.sub(r"<[^>]+>", lambda tag: pattern.sub(lambda found: colours[found.group()], tag.group()), body)
    box = re.search(r'viewBox="([\d. -]+)"', head)
    assert box is not None  # matplotlib always writes one
    width = float(box.group(1).split()[2]) * PIXELS_PER_POINT
    opening = f'<svg viewBox="{box.group(1)}" role="img" aria-label="{escape(label)}"'
    return Html(f'{opening} style="width:100%;max-width:{width:.0f}px">{body}')
