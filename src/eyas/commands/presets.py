"""The published constants of methods by detector family, which ``--method NAME:FAMILY`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from eyas.commands.names import METHODS, method_path
from eyas.tools.text_files import parse_yaml
from eyas.types import EyasError


@dataclass(frozen=True)
class Preset:
    """What was published for a method on a family: the options of its class, in its own unit, and where."""

    options: Mapping[str, Any]
    source: str


@cache
def published() -> Mapping[str, Mapping[str, Preset]]:
    """Short name of a method -> family -> preset. A method of which no constants are published is left out."""
    file = resources.files("eyas") / "assets" / "presets.yaml"
    loaded: dict[str, dict[str, dict[str, Any]]] = parse_yaml(file.read_text(encoding="utf-8"), "presets.yaml")
    return {
        method: {family: Preset(**preset) for family, preset in families.items()} for method, families in loaded.items()
    }


def preset_of(name: str) -> dict[str, Any] | None:
    """``fgfi:faster_rcnn`` as a class with its arguments; None where the part before the colon is no method's name.

    Raises:
        EyasError: nothing is published for that family. The message lists the families.
    """
    given, _, family = name.partition(":")
    path = method_path(given)
    if path is None:
        return None
    known = published().get(next(short for short, other in METHODS.items() if other == path), {})
    if family not in known:
        has = f"has published constants for {', '.join(known)}" if known else "has no published constants"
        raise EyasError(f"--method {name}: {given} {has}; without a family its weight is automatic")
    return {"class_path": path, "init_args": dict(known[family].options)}
