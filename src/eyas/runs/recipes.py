"""The recipes that come with Eyas, and the code that a recipe may name: Eyas's own, unless the user allows more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from typing import Any

from eyas.tools.text_files import parse_yaml
from eyas.types import EyasError

CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""An import path, package.module.Class."""
CODE = re.compile(r"(?P<maker>[A-Za-z_][\w.]*:\w+)(@(?P<folder>.+))?")
"""A function, and the folder whose weights the detector that it makes is given."""

_code_allowed: ContextVar[bool] = ContextVar("code_allowed", default=False)


def shipped_recipes() -> dict[str, Path]:
    """Recipe name -> its file, sorted."""
    root = Path(str(resources.files("eyas"))) / "recipes"
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))}


@contextmanager
def allow_code(allowed: bool) -> Iterator[None]:
    """In the context, recipes and configs may name code that is not Eyas's own, if ``allowed``."""
    token = _code_allowed.set(allowed)
    try:
        yield
    finally:
        _code_allowed.reset(token)


def code_is_allowed() -> bool:
    """Whether the context is one of `allow_code`."""
    return _code_allowed.get()


def names_function(name: str) -> bool:
    """Whether the name of a detector is package.module:function, which runs code, and not a file or folder."""
    return CODE.fullmatch(name) is not None and not Path(name).exists()


def refuse_code(value: Any, where: str, *, functions: bool = False) -> None:
    """Refuse names that would import modules other than Eyas's own, unless the user allows code.

    Args:
        value: a method as a recipe has it, a list of them, their arguments; or the name of a detector.
        where: the start of the message.
        functions: the value names a detector: package.module:function is code, other texts are not.

    Raises:
        EyasError: it names a class or function of other modules.
    """
    if code_is_allowed():
        return
    for text in filter(names_function, _texts(value)) if functions else foreign_classes(value):
        raise EyasError(
            f"{where} names {text}, which is not a part of Eyas, and to load it is to run its code; where you trust "
            "it, give --allow_code true on the command line"
        )


def foreign_classes(value: Any) -> Iterator[str]:
    """The import paths in nested mappings, lists and texts of YAML that are not Eyas's own."""
    return (text for text in _texts(value) if CLASS.fullmatch(text) and not text.startswith("eyas."))


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested mappings and lists, their keys left out; a text of YAML counts as what it stands for."""
    if isinstance(value, str):
        inner = None
        with suppress(EyasError):
            inner = parse_yaml(value, "")
        if isinstance(inner, dict | list):
            yield from _texts(inner)
        else:
            yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
