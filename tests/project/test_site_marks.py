"""What the site puts into pages from the product itself: the help of every command, and the recipes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from eyas.__main__ import COMMANDS
from eyas.runs.recipes import shipped_recipes

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "site" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_has_the_help_of_each(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "commands.md").read_text())
    assert all(f"## eyas {name}\n" in page and f"usage: eyas {name}" in page for name in COMMANDS)
    assert "--run.epochs" in page and "--epochs for short" in page and "<!--" not in page


def test_the_page_of_recipes_lists_each(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((DOCS / "recipes.md").read_text())
    assert all(f"| `{name}` | " in page for name in shipped_recipes())
