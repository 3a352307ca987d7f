"""Signature to schema: parsers made from functions, and their help and errors in plain words.

Parsing takes two passes where a command has methods, which are classes and need torch: the first takes any value for
``method`` and finds every other error, the second runs only when a method was given and all else is right.
"""

from __future__ import annotations

import inspect
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import register_type

from eyas.args import FLAT
from eyas.commands.config_files import ALLOW_CODE, MODE, PlainValue
from eyas.commands.names import SHORT
from eyas.commands.refusals import METHOD, SIZE_FORM, is_group, options_of, plain_error
from eyas.commands.spelling import spelled_out
from eyas.runs.config import command_config
from eyas.runs.recipes import code_is_allowed, foreign_classes
from eyas.tools.causes import causes
from eyas.tools.own_modules import find_own_modules
from eyas.types import EyasError

NEEDS_CLASSES = (f"--{METHOD}.help", "--print_config")
"""Options that need the methods imported, whatever else is given."""


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
    own: dict[str, Any] = {"formatter_class": PlainHelp, "parser_mode": MODE, "allow_abbrev": False}
    parser = ArgumentParser(prog=prog, description=summary(function), exit_on_error=False, **own)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    text = "Let a config name methods and detectors that are not Eyas's own, which runs their code."
    parser.add_argument(f"--{ALLOW_CODE}", type=bool, default=SUPPRESS, help=text)
    parser.add_function_arguments(flat, as_group=False, as_positional=positional, skip=set(skip))
    required = [name for name, option in inspect.signature(flat).parameters.items() if option.default is option.empty]
    given = [name.upper() if positional else f"--{name} {name.upper()}" for name in required if name not in skip]
    parser.usage = " ".join(["%(prog)s", *given, "[--OPTION VALUE ...]"])
    _describe(parser)
    return parser


def _describe(parser: ArgumentParser) -> None:
    """Add to the help what the signature does not say: what a group of options takes, and an option's short name."""
    options = options_of(parser)
    for name, action in options.items():
        if is_group(action):
            action.help = f"{SIZE_FORM}." if name.endswith("resize") else "a mapping of the options below."
    for short, names in SHORT.items():
        for action in (options[name] for name in names if name in options and short not in options):
            action.help = f"{(action.help or '').removesuffix('.')}; --{short} for short."


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
    hints = get_type_hints(SimpleNamespace(__annotations__=own), names, {"Method": method, "Any": PlainValue})
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
    arguments = spelled_out(parser, arguments)
    if METHOD not in parser.get_defaults():
        return parser, _parse(parser, arguments)
    others = _without_methods(arguments)
    if not any(argument.startswith(NEEDS_CLASSES) for argument in arguments):
        config = _parse(parser, others)
        if len(others) == len(arguments) and config[METHOD] is None:
            return parser, config
        _instances(parser, config)
    of_methods = [argument.partition("=")[2] or argument for argument in arguments if argument not in others]
    if any(foreign_classes(of_methods)):
        find_own_modules()
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
    """The config of arguments that are spelled out. Raises EyasError where the parser refuses one."""
    if code_is_allowed():
        find_own_modules()
    try:
        config: Namespace = parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise EyasError(plain_error(str(error), parser, arguments)) from error
    return config


def run_config(function: Callable[..., Any], parser: ArgumentParser, config: Namespace) -> Any:
    """Call a command with a parsed config. The runs it makes record that config as YAML that gives the same again."""
    config = _recorded(config)
    with command_config(parser.dump(config, skip_validation=True)):
        return one_parameter_each(function, methods=False)(**vars(_instances(parser, config)))


def _recorded(config: Namespace) -> Namespace:
    """The config as a run records it, without the options that are for the command line alone."""
    recorded = config.clone()
    for name in ("config", ALLOW_CODE):
        recorded.pop(name, None)
    return recorded


def _instances(parser: ArgumentParser, config: Namespace) -> Namespace:
    """The config with its classes made. Raises EyasError where one refuses its arguments."""
    try:
        instances: Namespace = parser.instantiate(config)
        return instances
    except ValueError as error:
        # What the class itself said is below a list of every type that the option does not have either.
        said = next((cause for cause in causes(error) if isinstance(cause, EyasError)), error)
        raise EyasError(str(said)) from error


def run_recipe(function: Callable[..., Any], recipe: Path, overrides: Mapping[str, Any]) -> Any:
    """Do what ``eyas COMMAND --config recipe --key value ...`` would do, and return what the command returns."""
    given = [f"--config={recipe}", *(f"--{key}={value}" for key, value in overrides.items())]
    return call_with_options(function, function, given)


def call_with_options(function: Callable[..., Any], command: Callable[..., Any], arguments: Sequence[str]) -> Any:
    """Call a function that takes what a command takes with the options of ``eyas COMMAND arguments``.

    Raises:
        EyasError: as `resolve_options` does, or the function.
    """
    parser = command_parser(command)
    return run_config(function, parser, _parse(parser, spelled_out(parser, arguments)))


def resolve_options(function: Callable[..., Any], arguments: Sequence[str]) -> str:
    """The options that ``eyas COMMAND arguments`` would have, as the YAML that its run would record.

    Raises:
        EyasError: an option that the command does not have, a value of another type, or one that a class refuses.
    """
    parser = command_parser(function)
    config = _recorded(_parse(parser, spelled_out(parser, arguments)))
    _instances(parser, config)
    return str(parser.dump(config, skip_validation=True))
