"""For mkdocs: links out of the documentation, to sources and records, become their text, and formulas MathML."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
OUTSIDE = re.compile(
    r"^(\.\./)+(src|tests|benchmarks|results|(README|CHANGELOG|ARCHITECTURE|CONTRIBUTING)\.md|LICENSE|Makefile|pyproject\.toml)"
)
MATH = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
RECORD = re.compile(r"\.(json|jsonl|ya?ml|txt)$|/$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    def kept(link: re.Match[str]) -> str:
        text, target = link.groups()
        if "://" not in target and (OUTSIDE.search(target) or RECORD.search(target)):
            return text
        return link.group(0)

    return LINK.sub(kept, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: the pages need no script and no network."""
    return MATH.sub(lambda math: convert(unescape(math["latex"]), "block" if math["tag"] == "div" else "inline"), html)
