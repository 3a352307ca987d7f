"""Signature to schema: parsers made from functions, and options read from a recipe as a command would read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from eyas.runs.config import command_config
from eyas.types import EyasError


def command_parser(
    function: Callable[..., Any], *, positional: bool = False, skip: Collection[str] = ()
) -> ArgumentParser:
    """The parser of a command: options from its signature, help from its docstring, ``--config`` for a YAML file.

    Args:
        function: the command.
        positional: its required arguments are given by place.
        skip: arguments that a signature does not describe, for the caller to add.
    """
    parser = ArgumentParser(description=summary(function), exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(function, as_positional=positional, skip=set(skip))
    return parser


def summary(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


def run_config(function: Callable[..., Any], parser: ArgumentParser, config: Namespace) -> Any:
    """Call a command with a parsed config. The runs it makes record that config as YAML that gives the same again."""
    config = config.clone()
    config.pop("config", None)
    with command_config(parser.dump(config, skip_validation=True)):
        options = vars(_instances(parser, config))
        options.pop("devices", None)  # of the command line, not of the function: how many processes there are
        return function(**options)


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


def run_recipe(function: Callable[..., Any], recipes: Sequence[Path], overrides: Mapping[str, Any]) -> Any:
    """Do what ``eyas COMMAND --config recipe ... --key value ...`` would do, and return what the command returns.

    Args:
        function: the command.
        recipes: YAML files; later ones override earlier ones.
        overrides: option name, dotted as on the command line, to value.
    """
    parser = command_parser(function)
    arguments = [f"--config={recipe}" for recipe in recipes]
    arguments += [f"--{key}={value}" for key, value in overrides.items()]
    return run_config(function, parser, parser.parse_args(arguments))


def resolve(function: Callable[..., Any], arguments: Sequence[str]) -> str:
    """The options that ``eyas COMMAND arguments`` would have, as the YAML that its run would record.

    Raises:
        ArgumentError: an option that the command does not have, or a value of another type.
        EyasError: a class refuses its arguments.
    """
    parser = command_parser(function)
    config = parser.parse_args(list(arguments))
    config.pop("config", None)
    _instances(parser, config)
    return str(parser.dump(config, skip_validation=True))
