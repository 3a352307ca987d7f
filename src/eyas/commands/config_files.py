"""A config is data: it is checked here before a parser acts on it.

A parser made from signatures imports the classes that values name. A config may come from a stranger, so it may name
classes only as its method, and only those of Eyas, unless the command line allows its code; see `eyas.runs.recipes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from jsonargparse.typing import register_type

from eyas.commands.refusals import METHOD
from eyas.runs.recipes import refuse_code
from eyas.tools.text_files import CONSTRUCTOR_ERRORS, check_yaml
from eyas.types import EyasError

ALLOW_CODE = "allow_code"
ARMS = ("student", "arms")
"""Options of a comparison that hold methods; each arm is checked when it is resolved."""
DETECTORS = ("teacher", "run", "model")
"""Options that may be package.module:function."""
MODE = "yaml within limits"


def _within_limits(text: str) -> Any:
    """YAML as jsonargparse reads it. Raises EyasError, which no handler of the parser catches, beyond a limit."""
    check_yaml(text)
    return get_loader("yaml")(text)


set_loader(MODE, _within_limits, exceptions=(yaml.YAMLError, *CONSTRUCTOR_ERRORS))


class PlainValue:
    """A value of YAML's types. A type of its own, or jsonargparse makes the class that a mapping in it names."""

    @staticmethod
    def parse(value: Any) -> Any:
        """The value; a text is read as YAML, so that ``--options.width 0.25`` is a number."""
        if isinstance(value, str):
            try:
                value = _within_limits(value)
            except yaml.YAMLError:
                return value
        for name, inner in _nodes(value):
            if name.rpartition(".")[2] == "class_path":
                raise EyasError(f"class_path {inner!r:.60}: only a method is named by its class")
        return value


register_type(PlainValue, serializer=lambda value: value, deserializer=PlainValue.parse)


def check_config(values: Mapping[str, Any], where: str) -> None:
    """Check the options of a config before a parser acts on them. Raises EyasError that begins with ``where``."""
    for name, value in _nodes(values):
        option = name.split(".")[0].removesuffix("+")
        if option == ALLOW_CODE:
            raise EyasError(f"{where}: {ALLOW_CODE} is for the command line alone")
        if option == "config":
            raise EyasError(f"{where}: names another config; give each by a --config of its own")
        if option in DETECTORS:
            refuse_code(value, f"{where}: {name}", functions=True)
        if option == METHOD:
            refuse_code(value, f"{where}: {name}")
        elif option not in ARMS and name.rpartition(".")[2] == "class_path":
            raise EyasError(f"{where}: {name} names {value!r:.60}, and only a method is named by its class")


def code_is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether the command line has ``--allow_code``; a config cannot."""
    for argument, following in pairwise([*arguments, ""]):
        name, given, value = argument.removeprefix("--").replace("-", "_").partition("=")
        if argument.startswith("--") and name == ALLOW_CODE:
            return (value if given else following).lower() not in ("false", "no", "off")
    return False


def _nodes(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything in nested mappings and lists, outermost first."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        name = f"{prefix}.{key}" if prefix else str(key)
        yield name, inner
        yield from _nodes(inner, name)
