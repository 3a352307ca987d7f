"""For mkdocs: links out of the documentation, to sources and records, become their text."""

from __future__ import annotations

import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
OUTSIDE = re.compile(
    r"^(\.\./)+(src|tests|benchmarks|results|(README|CHANGELOG|ARCHITECTURE|CONTRIBUTING)\.md|LICENSE|Makefile|pyproject\.toml)"
)
RECORD = re.compile(r"\.(json|jsonl|ya?ml|txt)$|/$")


def on_page_markdown(markdown: str, **_: Any) -> str:
    def kept(link: re.Match[str]) -> str:
        text, target = link.groups()
        if "://" not in target and (OUTSIDE.search(target) or RECORD.search(target)):
            return text
        return link.group(0)

    return LINK.sub(kept, markdown)
