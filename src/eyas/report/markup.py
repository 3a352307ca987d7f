"""HTML from text. Text from files becomes markup only here, where it is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import NewType

Html = NewType("Html", str)
"""Markup. Everything else is text, and is escaped when it becomes markup."""

ASSETS = Path(str(resources.files("eyas"))) / "assets" / "report"


def counted(number: int, noun: str) -> str:
    """As ``1 object`` or ``2 objects``: text, not markup."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def shown(metric: float) -> str:
    """As ``0.431``, a dash for NaN: text, not markup."""
    return "-" if math.isnan(metric) else f"{metric:.3f}"


def join(parts: Iterable[Html]) -> Html:
    """Several pieces one after another."""
    return Html("\n".join(parts))


def paragraph(words: str, *, kind: str = "") -> Html:
    """A paragraph of text.

    Args:
        words: its text.
        kind: class in the style sheet: "note" for a definition, "missing" for what was left out and why.
    """
    opening = f'<p class="{escape(kind)}">' if kind else "<p>"
    return Html(f"{opening}{escape(words)}</p>")


def heading(words: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{escape(words)}</h3>")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table that scrolls by itself where the page is narrow. The first column names the rows."""
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{lines}\n</tbody>"
        "</table></div>"
    )


def figure(content: Html, caption: str) -> Html:
    """A drawing with its caption below it."""
    return Html(f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>")


def grid(figures: Iterable[Html], *, kind: str = "small") -> Html:
    """Figures beside each other, as many as the page is wide for: "small" ones or "pictures"."""
    return Html(f'<div class="grid {escape(kind)}">\n{join(figures)}\n</div>')


def beside(*parts: Html) -> Html:
    """A drawing and its numbers, side by side where the page is wide enough and below each other where it is not."""
    return Html(f'<div class="beside">\n{join(parts)}\n</div>')


def together(*parts: Html) -> Html:
    """Pieces that stay in one column of `beside`."""
    return Html(f"<div>\n{join(parts)}\n</div>")


def picture(jpeg: bytes, alt: str) -> Html:
    """A photograph, inside the page itself."""
    data = base64.b64encode(jpeg).decode()
    return Html(f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}">')


def legend(entries: Mapping[str, str], *, label: str) -> Html:
    """Colours and their meaning: name -> CSS colour."""
    items = "".join(
        f'<li><span class="swatch" style="background:{escape(colour)}" aria-hidden="true"></span>{escape(name)}</li>'
        for name, colour in entries.items()
    )
    return Html(f'<ul class="legend" aria-label="{escape(label)}">{items}</ul>')


def details(summary: str, *parts: Html) -> Html:
    """Content behind a summary that opens it."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{join(parts)}\n</details>")


def page(title: str, lead: Html, sections: Mapping[str, tuple[str, Html]]) -> str:
    """The whole page: a title, markup above the contents, and the sections, anchor -> heading and content of each."""
    links = "".join(f'<li><a href="#{escape(name)}">{escape(title)}</a></li>' for name, (title, _) in sections.items())
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        lead=lead,
        contents=links,
        body=join(
            Html(f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n{part}\n</section>')
            for name, (title, part) in sections.items()
        ),
    )
