"""Matplotlib figures as SVG inside the page: their text is text, and the style sheet decides their colours.

Matplotlib has no dark mode, but its SVG names every colour, so that each is replaced by a variable of the style sheet
once the figure is drawn: black by the colour of the text, the colours of `eyas.report.plots.COLOURS` by
``--c0`` to ``--c9``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib

from eyas.report.charts import TEACHER_PLACE
from eyas.report.markup import Html
from eyas.report.plots import COLOURS

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "eyas",
    "savefig.transparent": True,
    "text.parse_math": False,  # a class may be called $x$
    "font.sans-serif": ["DejaVu Sans"],
}
PIXELS_PER_POINT = 1.25


def variable(place: int) -> str:
    """The CSS colour of an arm, or of the teacher: that which replaces what it is drawn in."""
    if place == TEACHER_PLACE:
        return "currentColor"
    return f"var(--c{place % len(COLOURS)})"


def drawing(draw: Callable[[Path], None], label: str) -> Html:
    """What a function draws, as SVG for the page.

    Args:
        draw: is given the path of an .svg file to write with matplotlib.
        label: what it shows, for those who do not see it.
    """
    with TemporaryDirectory() as folder, matplotlib.rc_context(STYLE):
        path = Path(folder) / "figure.svg"
        draw(path)
        return inline(path.read_text(), label)


def inline(svg: str, label: str) -> Html:
    """An SVG file of matplotlib's as part of a page: no prolog, no metadata, ids of its own, colours by variable."""
    body = svg[svg.index("<svg") :]
    head, _, body = body.partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Two figures in one page must not share ids, which matplotlib counts from 1 in each.
    mark = "f" + hashlib.sha256((label + svg).encode()).hexdigest()[:8] + "-"
    body = re.sub(r'(<[^>]*?\bid=")', rf"\g<1>{mark}", body)
    body = body.replace("url(#", f"url(#{mark}").replace('xlink:href="#', f'href="#{mark}')
    box = re.search(r'viewBox="([\d. -]+)"', head)
    assert box is not None  # matplotlib always writes one
    width = float(box.group(1).split()[2]) * PIXELS_PER_POINT
    opening = f'<svg viewBox="{box.group(1)}" role="img" aria-label="{escape(label)}"'
    return Html(f'{opening} style="width:100%;max-width:{width:.0f}px">{_recoloured(body)}')


def _recoloured(body: str) -> str:
    """Colours inside tags by variable. What is between the tags, names among it, is left alone."""
    colours = {matplotlib.colors.to_hex(colour): variable(place) for place, colour in enumerate(COLOURS)}
    colours |= {"#000000": "currentColor", "#666666": "var(--muted)"}
    pattern = re.compile("|".join(colours))
    return re.sub(r"<[^>]+>", lambda tag: pattern.sub(lambda found: colours[found.group()], tag.group()), body)
