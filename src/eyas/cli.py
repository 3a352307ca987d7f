"""Signature to schema: parsers made from functions, and options read from a recipe as a command would read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace


def command_parser(function: Callable[..., Any], *, positional: bool = False) -> ArgumentParser:
    """The parser of a command: options from its signature, help from its docstring, ``--config`` for a YAML file."""
    parser = ArgumentParser(description=summary(function), exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below.")
    parser.add_function_arguments(function, as_positional=positional)
    return parser


def summary(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


def resolve(parser: ArgumentParser, config: Namespace) -> tuple[str, dict[str, Any]]:
    """A parsed config as YAML that gives the same run again, and as the arguments of the function."""
    config = config.clone()
    config.pop("config", None)
    text: str = parser.dump(config, skip_validation=True)
    return text, dict(vars(parser.instantiate_classes(config)))


def options_of(
    function: Callable[..., Any], recipe: Path, overrides: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """What ``eyas COMMAND --config recipe --key value ...`` would run, as `resolve` gives it.

    Args:
        overrides: option name, dotted as on the command line, to value.
    """
    parser = command_parser(function)
    arguments = [f"--config={recipe}", *(f"--{key}={value}" for key, value in overrides.items())]
    return resolve(parser, parser.parse_args(arguments))
