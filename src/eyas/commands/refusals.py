"""What an option takes, in words, and the parser's errors as one sentence: the option, what to give, what was given."""

from __future__ import annotations

import re
import textwrap
from argparse import Action
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from eyas.commands.names import MEANINGS, METHODS, SHORT
from eyas.comparison.arms import ArmOptions

METHOD = "method"
SIZE = "resize"
SIZE_FORM = "WIDTHxHEIGHT such as 640x480, one number for a square, or a mapping such as '{shorter: 600, longer: 1000}'"
METHOD_FORM = f"{', '.join(METHODS)}, or the import path of a class"
WORDS: Mapping[Any, tuple[str, str]] = {
    str: ("a text", ""),
    int: ("a whole number", "1"),
    PositiveInt: ("a whole number above 0", ""),
    ArmOptions: ("a recipe, a YAML file, or a mapping such as '{model: retinanet}'", ""),
    float: ("a number", "0.5"),
    Path: ("a path", ""),
}
"""Type -> what to give, and an example of it where the default is none."""
NAMED = {kind.__name__: words for kind, (words, _) in WORDS.items()} | {"bool": "true or false", "NoneType": "null"}
"""Name of a type, as the parser's messages have it -> what to give."""
EXAMPLES: Mapping[Any, tuple[str, str]] = {int: ("0", "1"), float: ("0.5", "1")}
"""Type of a list's entries -> two of them."""
KEY = re.compile(r'Parser key "([^"]+)":\s*(.*)', re.DOTALL)
CLASS_PROBLEM = re.compile(r"^( *)- Problem with given class_path '([^']+)':\n((?:\1 {4}.*\n?)+)", re.MULTILINE)
GOT = re.compile(r"(?:Got|Given) value: (.*)")
NESTED = re.compile(r"NestedArg\(key='([^']*)'")
CHOICE = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)")
UNKNOWN = re.compile(
    r"unrecognized arguments: (.*)|Option '(.+)' is not accepted|Group '(.+)' does not accept option '(.+)'"
)
REASONS: Mapping[str, str] = {
    "device": "; auto takes the accelerator where there is one, and CUDA_VISIBLE_DEVICES says which GPUs there are"
}
"""Last name of an option -> what to add where its value is refused."""
MISSING = "the following arguments are required: "


def options_of(parser: ArgumentParser) -> dict[str, Action]:
    """Full name -> every option that takes a value, those that stand for a group of others among them."""
    return {
        action.dest: action
        for action in parser._actions
        if action.option_strings and (hasattr(action, "_typehint") or is_group(action) or action.dest == "config")
    }


def is_group(action: Action) -> bool:
    """Whether an option stands for a mapping of others, as ``--optim`` does."""
    return action.metavar == "CONFIG" and action.dest != "config"


def kinds(action: Action) -> tuple[Any, ...]:
    """The types of the values that an option takes, the type of null last."""
    hint = getattr(action, "_typehint", None)
    alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(sorted(alternatives, key=lambda kind: kind is NoneType))


def to_give(action: Action) -> str:
    """What an option takes, with an example: ``a number such as 0.01``."""
    if is_group(action):
        return SIZE_FORM if action.dest.rpartition(".")[2] == SIZE else "a mapping of its options"
    if action.dest == METHOD:
        return METHOD_FORM
    choices = [choice for kind in kinds(action) for choice in _choices(kind, action.default)]
    return either(list(dict.fromkeys(choices)))


def either(choices: Sequence[str]) -> str:
    """``a, b or c``."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def _choices(kind: Any, default: Any) -> list[str]:
    if kind is bool:
        return ["true", "false"]
    if kind is NoneType:
        return ["null"]
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in (list, tuple):
        return [f"a list such as {_entries(get_args(kind)[0], default)}"]
    if get_origin(kind) is dict:
        return ["a mapping such as '{name: value}'"]
    words, example = WORDS.get(kind, ("a value", ""))
    if example and type(default) in (int, float):
        example = f"{default:g}"
    return [f"{words} such as {example}" if example else words]


def _entries(kind: Any, default: Any) -> str:
    if isinstance(default, list | tuple) and default:
        return ",".join(map(str, default))
    return ",".join(get_args(kind)[:2] if get_origin(kind) is Literal else EXAMPLES.get(kind, ("a", "b")))


def plain_error(text: str, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """An error of the parser as one line that names the option.

    Args:
        text: the error.
        parser: of the command.
        arguments: that were parsed, each option with its value as ``--NAME=VALUE``.
    """
    if text.startswith(MISSING):
        return f"required and not given: {text.removeprefix(MISSING)}; see {parser.prog} --help"
    unknown, choice, problem = UNKNOWN.fullmatch(text), CHOICE.match(text), KEY.fullmatch(text)
    if unknown is not None:
        of_line, *of_file = unknown.groups()
        return unknown_option(of_line or f"--{'.'.join(filter(None, of_file))}", parser)
    if choice is not None:
        name, given, choices = choice.groups()
        return f"{name}: give {either(choices.replace(chr(39), '').split(', '))}, not {given}"
    if problem is None:
        return " ".join(text.split())
    return _refused_value(problem[1], problem[2], parser, arguments)


def unknown_option(given: str, parser: ArgumentParser) -> str:
    """The answer to an option that the command does not have: what may have been meant."""
    name = re.split("[ =]", given.removeprefix("--"))[0]
    by_place = [action.dest for action in parser._actions if not action.option_strings]
    if name in by_place:
        return f"--{name} is given without its name, by place: {str(parser.usage).replace('%(prog)s', parser.prog)}"
    if not given.startswith("--"):
        return f"{given}: no option stands before it; a list is given as a,b without spaces; see {parser.prog} --help"
    close = meant(name, list(options_of(parser)))
    hint = f"did you mean {either([f'--{key}' for key in close])}?" if close else f"see {parser.prog} --help"
    return f"--{name}: there is no such option; {hint}"


def meant(name: str, known: Sequence[str]) -> list[str]:
    """The options that a name may stand for: those of its meaning, of the same last name, or of a close spelling."""
    name = name.replace("-", "_").lower()
    last = name.rpartition(".")[2]
    found = [key for key in (*SHORT.get(last, ()), *MEANINGS.get(last, ())) if key in known]
    found = found or [key for key in known if key.rpartition(".")[2] == last]
    by_last = {key.rpartition(".")[2]: key for key in reversed(known)}
    return found or get_close_matches(name, known, n=1) or [by_last[key] for key in get_close_matches(last, by_last, 1)]


def _refused_value(key: str, text: str, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """What is wrong with the value of an option, by the option's own type rather than by the parser's words."""
    nested, of_class, action = NESTED.search(text), CLASS_PROBLEM.search(text), options_of(parser).get(key)
    if of_class is not None:
        return _class_problem(key, of_class[2], textwrap.dedent(of_class[3]).strip())
    if nested is not None and key != METHOD:
        return unknown_option(f"--{key}.{nested[1]}", parser)
    if action is None:
        return f"--{key}: {' '.join(text.split())}"
    why = REASONS.get(key.rpartition(".")[2], "")
    return f"--{key}: give {to_give(action)}, not {_given(key, text, arguments) or 'nothing'}{why}"


def _given(key: str, text: str, arguments: Sequence[str]) -> str:
    """The value that was refused: as the parser shows it, or a list or mapping as it was typed."""
    shown = (GOT.findall(text) or [""])[-1]
    typed = [argument.partition("=")[2] for argument in arguments if re.match(rf"--{re.escape(key)}\+?=", argument)]
    return typed[-1] if typed and shown[:1] in ("", "[", "{") else shown


def _class_problem(key: str, path: str, detail: str) -> str:
    """What is wrong with the arguments of a class. The first class that was tried and failed says the most."""
    if path == "eyas.Method":  # the base class is tried where no method is named
        return f"--{key}: say whose option it is: --{key} fgfi --{key}.NAME VALUE"
    inner, unknown = KEY.fullmatch(detail), UNKNOWN.fullmatch(detail)
    if unknown is not None:
        option = ".".join(filter(None, unknown.groups()))
        return f"--{key}: {path} has no option {option}; --{key}.help {path} lists them"
    if inner is None:
        return f"--{key}: {path}: {' '.join(detail.split())}"
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|(typing\.Literal\[.*?\]))", inner[2])
    choices = [NAMED.get(name, f"a {name}") if name else _literals(literal) for name, literal in expected]
    if not choices:
        return f"--{key}.{inner[1]}: {' '.join(inner[2].split())}"
    got = (GOT.findall(inner[2]) or ["?"])[-1]
    return f"--{key}.{inner[1]}: give {either(list(dict.fromkeys(choices)))}, not {got}"


def _literals(text: str) -> str:
    return either(re.findall(r"'([^']*)'", text))
