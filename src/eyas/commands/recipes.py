"""`eyas recipes`: the recipes that come with Eyas."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from eyas.runs.recipes import shipped_recipes
from eyas.tools.files import write_text
from eyas.types import EyasError


def recipes(action: Literal["list", "copy"] = "list", name: str | None = None) -> None:
    """List the recipes that come with Eyas, or copy one into this folder.

    Args:
        action: list or copy.
        name: the recipe to copy, as listed.
    """
    shipped = shipped_recipes()
    if action == "list":
        for known, path in shipped.items():
            summary = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print(f"{known:<44} {summary}")
        return
    if name is None:
        raise EyasError("name the recipe to copy: eyas recipes copy NAME; eyas recipes lists them")
    if name not in shipped:
        close = get_close_matches(name, shipped, n=3)
        hint = f"did you mean {' or '.join(close)}" if close else "eyas recipes lists them"
        raise EyasError(f"there is no recipe {name!r}; {hint}")
    target, text = Path(Path(name).name + ".yaml"), shipped[name].read_text(encoding="utf-8")
    if target.exists() and (not target.is_file() or target.read_bytes() != text.encode()):
        raise EyasError(f"{target} exists already and differs from the recipe; move it away first")
    write_text(target, text)
    print(f"{target}: its first lines say how to run it")
