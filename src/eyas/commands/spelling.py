"""What people type -> what the parser takes: short names, dashes, switches without a value, sizes, lists and methods.

Everything is ``--NAME=VALUE`` afterwards, a YAML file included, whose text is given instead of its name: so the parser
itself opens no file and guesses at no value.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Action
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, get_loader

from eyas.commands.config_files import check_config
from eyas.commands.names import SHORT, method_path
from eyas.commands.presets import preset_of
from eyas.commands.refusals import METHOD, METHOD_FORM, SIZE, is_group, kinds, options_of, to_give
from eyas.tools.text_files import YAML_LIMIT, parse_yaml, read_text
from eyas.types import EyasError

SIZE_TEXT = re.compile(r"(\d+)(?:[xX*](\d+))?")
"""WIDTHxHEIGHT, or one number for both."""
NAMES_A_METHOD = (f"{METHOD}.class_path", f"{METHOD}.help")
SWITCHES = ("true", "false", "yes", "no", "on", "off", "auto")


def spelled_out(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line in the parser's own form.

    Args:
        parser: of the command.
        arguments: without the command.

    Raises:
        EyasError: an option without its value, a size, method or YAML file that is none.
    """
    options, rest, spelled = options_of(parser), list(arguments), list[str]()
    by_place = any(not action.option_strings for action in parser._actions)
    while rest:
        argument = rest.pop(0)
        name, given, value = argument.removeprefix("--").partition("=")
        name, plus = full_name(name.removesuffix("+"), options), "+" * name.endswith("+")
        action = options.get(name)
        if not argument.startswith("--") or (action is None and name not in NAMES_A_METHOD):
            spelled.append(argument)
        elif action is None:
            value = value or (rest.pop(0) if rest and not rest[0].startswith("--") else "")
            spelled.append(f"--{name}={method_path(value) or value}" if value else argument)
        else:
            value = value if given else _value(name, action, rest, by_place=by_place)
            spelled.append(f"--{name}{plus}={natural(name, action, value, options)}")
    return spelled


def full_name(name: str, options: Mapping[str, Action]) -> str:
    """The full name of an option that may be given by a short one, or with dashes; other names as they are."""
    if name in options:
        return name
    name_ = name.replace("-", "_")
    candidates = (name_, *SHORT.get(name_, ()))
    return next((candidate for candidate in candidates if candidate in options), name)


def _value(name: str, action: Action, rest: list[str], *, by_place: bool) -> str:
    """Take the value of an option off the rest of the arguments. A switch may stand alone."""
    following = rest[0] if rest else None
    missing = following is None or following.startswith("--")
    if bool in kinds(action) and (missing or (by_place and str(following).lower() not in SWITCHES)):
        return "true"
    if missing:
        raise EyasError(f"--{name}: give {to_give(action)}; nothing follows it")
    return rest.pop(0)


def natural(name: str, action: Action, value: str, options: Mapping[str, Action]) -> str:
    """The value of an option as the parser takes it."""
    if name == "config":
        return _as_text(read_config(value, options))
    if is_group(action):
        return _as_text(_group(name, _given_mapping(name, value), options))
    if name == METHOD:
        return _as_text(_method(_yaml(value, f"--{METHOD}")))
    return _as_choice(_as_list(value, action), action)


def read_config(file: str, options: Mapping[str, Action]) -> dict[str, Any]:
    """The options of a YAML file, with its methods and sizes in the parser's own form.

    Raises:
        EyasError: there is no such file, it is no mapping, or a group of options in it is none.
    """
    loaded = _yaml(file if file.startswith("{") else _read(Path(file)), file) or {}
    if not isinstance(loaded, Mapping):
        raise EyasError(f"{file}: a mapping of options is expected, such as `run: {{epochs: 12}}`")
    check_config(loaded, file)
    return _full(loaded, options)


def _full(mapping: Mapping[Any, Any], options: Mapping[str, Action], prefix: str = "") -> dict[str, Any]:
    full = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if name in options and is_group(options[name]):
            value = _group(name, value, options)
        full[str(key)] = _method(value) if name == METHOD else value
    return full


def _group(name: str, value: Any, options: Mapping[str, Action]) -> dict[str, Any]:
    """The mapping of a group of options. The parser would import what a text names here, and open it as a file."""
    if name.rpartition(".")[2] == SIZE:
        value = size(value)
    if not isinstance(value, Mapping):
        raise EyasError(f"--{name}: give {to_give(options[name])}, not {value}")
    return _full(value, options, f"{name}.")


def size(value: Any) -> Any:
    """WIDTHxHEIGHT, or one number for both, as a mapping; another value as it is."""
    sides = SIZE_TEXT.fullmatch(str(value).strip())
    return value if sides is None else {"height": int(sides[2] or sides[1]), "width": int(sides[1])}


def _method(value: Any) -> Any:
    """A method, or a list of them, by import paths. Raises EyasError where a name is no method's."""
    if value is None or isinstance(value, list):
        return value and [_method(entry) for entry in value]
    if isinstance(value, Mapping):
        return _with_arguments(value) if "class_path" in value else dict(value)
    if "," in str(value):
        return [_method(entry.strip()) for entry in str(value).split(",")]
    path: Any = value if "." in str(value) else method_path(str(value))
    if isinstance(value, str) and ":" in value:
        path = preset_of(value)
    if path is None or not isinstance(value, str):
        raise EyasError(f"--{METHOD}: give {METHOD_FORM}, not {value}")
    return path


def _with_arguments(method: Mapping[str, Any]) -> dict[str, Any]:
    """A class and its arguments, which stand above those of a preset."""
    found = _method(method["class_path"])
    if not isinstance(found, dict):
        return {**method, "class_path": found}
    return {**method, **found, "init_args": {**found["init_args"], **(method.get("init_args") or {})}}


def _as_list(value: str, action: Action) -> str:
    """``a,b`` as ``["a", "b"]`` for an option that takes a list; one entry alone where it takes nothing else."""
    lists = [kind for kind in kinds(action) if get_origin(kind) in (list, tuple)]
    alone = any(kind is str or get_origin(kind) is Literal for kind in kinds(action))
    if not lists or value.strip()[:1] in ("", "[", "{") or value == "null" or (alone and "," not in value):
        return value
    entries = [entry.strip() for entry in value.split(",")]
    return json.dumps(entries) if get_args(lists[0])[0] is str else f"[{', '.join(entries)}]"


def _as_choice(value: str, action: Action) -> str:
    """A choice in the case in which it is listed."""
    choices = [choice for kind in kinds(action) if get_origin(kind) is Literal for choice in get_args(kind)]
    return value.lower() if value.lower() in choices else value


def _given_mapping(name: str, value: str) -> Any:
    """The value of a group: a size, YAML, or the name of a YAML file."""
    return _yaml(_read(Path(value)) if Path(value).is_file() else value, f"--{name}")


def _read(path: Path) -> str:
    try:
        return read_text(path, YAML_LIMIT)
    except EyasError as error:
        raise EyasError(f"{error}; --config takes a YAML file of options") from error


def _yaml(text: str, where: str) -> Any:
    return parse_yaml(text, where, get_loader("yaml"))


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=sys.maxsize)
    return text.removesuffix("...\n").strip()
