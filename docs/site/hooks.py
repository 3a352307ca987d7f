"""For mkdocs: links out of the documentation become their text, formulas MathML, and marks the help or the recipes."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

from eyas.__main__ import COMMANDS, parser_of
from eyas.runs.recipes import shipped_recipes

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

    for mark, made in MADE.items():
        markdown = markdown.replace(mark, made()) if mark in markdown else markdown
    return LINK.sub(kept, markdown)


def commands() -> str:
    """The help of every command, from its parser."""
    parsers = {name: parser_of(name, methods=False) for name in COMMANDS}
    return "\n\n".join(
        f"## eyas {name}\n\n```text\n{each.format_help().rstrip()}\n```" for name, each in parsers.items()
    )


def recipes() -> str:
    """The recipes that come with Eyas, each with the first line of its file."""
    rows = [(name, path.read_text().partition("\n")[0].lstrip("# ")) for name, path in shipped_recipes().items()]
    return "\n".join(["| recipe | |", "| --- | --- |", *(f"| `{name}` | {summary} |" for name, summary in rows)])


MADE = {"<!-- every command -->": commands, "<!-- every recipe -->": recipes}
"""Mark in a page -> what stands there in the site."""


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: the pages need no script and no network."""
    return MATH.sub(lambda math: convert(unescape(math["latex"]), "block" if math["tag"] == "div" else "inline"), html)
