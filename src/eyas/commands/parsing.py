"""Signature to schema: parsers made from functions, and their help and errors in plain words.

Parsing takes two passes where a command has methods, which are classes and need torch: the first takes any value for
``method`` and finds every other error, the second runs only when a method was given and all else is right.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from argparse import Action
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import register_type

from eyas.args import FLAT
from eyas.runs.config import command_config
from eyas.types import EyasError

METHOD = "method"
NEEDS_CLASSES = (f"--{METHOD}.help", "--print_config")
"""Options that need the methods imported, whatever else is given."""
WORDS = {
    "<class 'bool'>": "true | false",
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'str'>": "a text",
    "<class 'list'>": "a list",
    "<class 'tuple'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'NoneType'>": "null",
    "Path": "a path",
    "PositiveInt": "a whole number above 0",
}
"""Type, as an error names it -> what to give; choices are separated by a bar."""
KEY = re.compile(r'Parser key "([^"]+)":\s*(.*)', re.DOTALL)
CLASS_PROBLEM = re.compile(r"^( *)- Problem with given class_path '([^']+)':\n((?:\1 {4}.*\n?)+)", re.MULTILINE)
EXPECTED = re.compile(r"Expected (?:an? )?(<class '\w+'>|typing\.Literal\[.*\])|Not of type (\w+):")
GOT = re.compile(r"(?:Got|Given) value: (.*)")
UNKNOWN = re.compile(
    r"unrecognized arguments: (.*)|Option '(.+)' is not accepted|Group '(.+)' does not accept option '(.+)'"
)
MISSING = "the following arguments are required: "


class PlainHelp(DefaultHelpFormatter):
    """Help that shows what is required and the defaults. Types are in the text where they matter."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        for unwanted in ("type: %(type)s", *(["default: %(default)s"] if action.default is None else [])):
            text = text.replace(f", {unwanted}", "").replace(f"{unwanted}, ", "").replace(f" ({unwanted})", "")
        return text


class AnyMethod:
    """A value of ``method`` as it was given, for the first pass. A type of its own, or jsonargparse imports the class
    that the value names."""

    def __init__(self, value: Any) -> None:
        self.value = value


register_type(AnyMethod, serializer=lambda method: method.value, deserializer=AnyMethod)


def command_parser(
    function: Callable[..., Any],
    *,
    prog: str = "eyas",
    positional: bool = False,
    skip: Collection[str] = (),
    methods: bool = True,
) -> ArgumentParser:
    """The parser of a command: options from its signature, help from its docstring, ``--config`` for a YAML file.

    Args:
        function: the command.
        prog: how the command is called.
        positional: its required arguments are positional.
        skip: arguments that a signature does not describe, for the caller to add.
        methods: import the methods, so that ``method`` makes one; otherwise it takes any value.
    """
    flat = one_parameter_each(function, methods=methods)
    parser = ArgumentParser(prog=prog, description=summary(function), exit_on_error=False, formatter_class=PlainHelp)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(flat, as_group=False, as_positional=positional, skip=set(skip))
    required = [name for name, option in inspect.signature(flat).parameters.items() if option.default is option.empty]
    given = [name.upper() if positional else f"--{name} {name.upper()}" for name in required if name not in skip]
    parser.usage = " ".join(["%(prog)s", *given, "[--OPTION VALUE ...]"])
    return parser


def summary(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


def one_parameter_each(function: Callable[..., Any], *, methods: bool) -> Callable[..., Any]:
    """The function with one parameter for each option: the fields of a `FLAT` dataclass stand beside its own.

    A parameter of its own wins over a field of the same name, and so does its docstring. The dataclass is made of the
    options before the call.
    """
    parameters = _parameters(function, methods)
    groups = {name: option.annotation for name, option in parameters.items() if option.annotation in FLAT}
    fields = {name: _parameters(group, methods) for name, group in groups.items()}
    own = parameters.keys() - groups.keys()
    options = [
        option
        for name, parameter in parameters.items()
        for option in fields.get(name, {name: parameter}).values()
        if name in own or option.name not in own
    ]
    options.sort(key=lambda option: option.default is not Parameter.empty)

    def call(**values: Any) -> Any:
        made = {name: group(**{field: values[field] for field in fields[name]}) for name, group in groups.items()}
        return function(**{name: values[name] for name in own}, **made)

    call.__signature__ = Signature(options)  # type: ignore[attr-defined]
    call.__doc__ = _docstring(function, list(groups.values()))
    return call


def _parameters(described: Any, methods: bool) -> dict[str, Parameter]:
    """The parameters of a function or dataclass with their types; `AnyMethod` for a method, or `Method` if imported."""
    method: type = AnyMethod
    if methods:
        from eyas.methods import Method

        method = Method
    own = {name: hint for name, hint in described.__annotations__.items() if name != "return"}
    names = vars(sys.modules[described.__module__])
    hints = get_type_hints(SimpleNamespace(__annotations__=own), names, {"Method": method})
    parameters = inspect.signature(described).parameters
    return {name: parameter.replace(annotation=hints[name]) for name, parameter in parameters.items()}


def _docstring(function: Callable[..., Any], groups: Sequence[type]) -> str:
    """The function's docstring, with the fields of the groups among its arguments."""
    head, mark, own = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    described = [(inspect.getdoc(group) or "").partition("\nAttributes:\n")[2] for group in groups]
    return f"{head}\nArgs:\n" + "\n".join([*described, own if mark else ""])


def parse_options(
    build: Callable[[bool], ArgumentParser], arguments: Sequence[str]
) -> tuple[ArgumentParser, Namespace]:
    """The parser of a command and its config. Methods are imported only where they are given and all else is right.

    Args:
        build: makes the command's parser, with the methods imported or not.
        arguments: of the command line, without the command.

    Raises:
        EyasError: an option that the command does not have, a value of another type, or one that is out of range.
    """
    parser = build(False)
    if METHOD not in parser.get_defaults():
        return parser, _parse(parser, arguments)
    if not any(argument.startswith(NEEDS_CLASSES) for argument in arguments):
        others = _without_methods(arguments)
        config = _parse(parser, others)
        if len(others) == len(arguments) and config[METHOD] is None:
            return parser, config
        _instances(parser, config)
    parser = build(True)
    return parser, _parse(parser, arguments)


def _without_methods(arguments: Sequence[str]) -> list[str]:
    """The arguments without ``--method``, its options and their values."""
    kept: list[str] = []
    value_follows = False
    for argument in arguments:
        of_method = argument.partition("=")[0].partition(".")[0].removesuffix("+") == f"--{METHOD}"
        if not of_method and (not value_follows or argument.startswith("--")):
            kept.append(argument)
        value_follows = of_method and "=" not in argument
    return kept


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The config of the arguments. Raises EyasError where the parser refuses one."""
    try:
        config: Namespace = parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise EyasError(_plain_error(str(error), parser)) from error
    for name, default in parser.get_defaults().items(branches=True):
        if isinstance(default, Namespace) and not isinstance(config[name], Namespace):
            raise EyasError(f"--{name}: give a mapping of its options, not {config[name]}")
    return config


def run_config(function: Callable[..., Any], parser: ArgumentParser, config: Namespace) -> Any:
    """Call a command with a parsed config. The runs it makes record that config as YAML that gives the same again."""
    config = config.clone()
    config.pop("config", None)
    with command_config(parser.dump(config, skip_validation=True)):
        return one_parameter_each(function, methods=False)(**vars(_instances(parser, config)))


def _instances(parser: ArgumentParser, config: Namespace) -> Namespace:
    """The config with its classes made. Raises EyasError where one refuses its arguments."""
    try:
        instances: Namespace = parser.instantiate(config)
        return instances
    except ValueError as error:
        # What the class itself said is below a list of every type that the option does not have either.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, EyasError):
            cause = cause.__cause__ or cause.__context__
        raise EyasError(str(cause or error)) from error


def run_recipe(function: Callable[..., Any], recipe: Path, overrides: Mapping[str, Any]) -> Any:
    """Do what ``eyas COMMAND --config recipe --key value ...`` would do, and return what the command returns."""
    parser = command_parser(function)
    arguments = [f"--config={recipe}", *(f"--{key}={value}" for key, value in overrides.items())]
    return run_config(function, parser, _parse(parser, arguments))


def resolve_options(function: Callable[..., Any], arguments: Sequence[str]) -> str:
    """The options that ``eyas COMMAND arguments`` would have, as the YAML that its run would record.

    Raises:
        EyasError: an option that the command does not have, a value of another type, or one that a class refuses.
    """
    parser = command_parser(function)
    config = _parse(parser, arguments)
    config.pop("config", None)
    _instances(parser, config)
    return str(parser.dump(config, skip_validation=True))


def _plain_error(text: str, parser: ArgumentParser) -> str:
    """An error of the parser, as one line that names the option and what to give where it is of a known kind."""
    if text.startswith(MISSING):
        return f"required and not given: {text.removeprefix(MISSING)}; see {parser.prog} --help"
    unknown = UNKNOWN.fullmatch(text)
    if unknown is not None:
        return _unknown_option(".".join(filter(None, unknown.groups())), parser)
    problem = KEY.fullmatch(text)
    return text if problem is None else f"--{_plain_problem(*problem.groups())}"


def _unknown_option(given: str, parser: ArgumentParser) -> str:
    name = re.split("[ =]", given.removeprefix("--"))[0]
    known = list(parser.get_defaults().keys())
    close = [key for key in known if key.rpartition(".")[2] == name] or get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0]}?" if close else f"see {parser.prog} --help"
    return f"{given}: there is no such option; {hint}"


def _plain_problem(key: str, text: str) -> str:
    """What is wrong with the value of one key. The first class that was tried and failed is the most informative."""
    of_class = CLASS_PROBLEM.search(text)
    if of_class is not None:
        detail = textwrap.dedent(of_class[3]).strip()
        inner = KEY.fullmatch(detail)
        return f"{key}: {of_class[2]}: {detail if inner is None else _plain_problem(*inner.groups())}"
    choices = [choice for found in EXPECTED.findall(text) for choice in _choices(*found)]
    if "subclass" in text or "dot import path" in text:
        choices = ["the import path of a class", *choices]
    if not choices:
        return f"{key}: {' '.join(text.split())}"
    *most, last = dict.fromkeys(choices)
    got = GOT.findall(text)
    wanted = f"{', '.join(most)} or {last}" if most else last
    return f"{key}: give {wanted}" + (f", not {got[-1]}" if got else "")


def _choices(expected: str, kind: str) -> list[str]:
    name = expected or kind
    return re.findall(r"'([^']*)'", name) if name.startswith("typing.Literal") else WORDS.get(name, name).split(" | ")
