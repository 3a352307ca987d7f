"""README and docs use public names only: those that an `__init__` of `eyas` exports in its ``__all__``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MENTION = re.compile(r"(?<![\w./-])eyas(?:\.[A-Za-z_]\w*)+")


def names_used(text: str) -> Iterator[str]:
    """Dotted names of Eyas on a page: imported in Python, or written out in code, text or a directive."""
    for block in BLOCK.findall(text):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("eyas."):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from MENTION.findall(re.sub(r"^from eyas.*$", "", text, flags=re.MULTILINE))


def is_public(name: str) -> bool:
    """Whether a package exports the name, or it is a package itself. Attributes of public names are public."""
    package, parts = "eyas", name.split(".")[1:]
    while parts and is_package(f"{package}.{parts[0]}"):
        package = f"{package}.{parts.pop(0)}"
    return not parts or parts[0] in getattr(importlib.import_module(package), "__all__", ())


def is_package(name: str) -> bool:
    found = importlib.util.find_spec(name)
    return found is not None and found.submodule_search_locations is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_uses_public_names_only(page: Path) -> None:
    assert [name for name in names_used(page.read_text()) if not is_public(name)] == []


@pytest.mark.parametrize("package", sorted(path.parent.name for path in (ROOT / "src" / "eyas").glob("*/__init__.py")))
def test_exported_names_exist(package: str) -> None:
    room = importlib.import_module(f"eyas.{package}")
    assert [name for name in getattr(room, "__all__", ()) if not hasattr(room, name)] == []


def test_private_names_are_noticed() -> None:
    page = "`eyas.FGFI`, `eyas.data.read(...)`, eyas.data\n```python\nfrom eyas.ops.anchors import AnchorGrid\n```\n"
    page += "`eyas.ops.overlaps.box_area`, https://eyas.dev, runs/eyas.yaml"
    private = [name for name in names_used(page) if not is_public(name)]
    assert private == ["eyas.ops.anchors.AnchorGrid", "eyas.ops.overlaps.box_area"]
