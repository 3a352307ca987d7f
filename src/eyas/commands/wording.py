"""Help and errors of options in plain words: jsonargparse speaks of parser keys, unions and Python types."""

from __future__ import annotations

import re
import textwrap
from argparse import Action
from difflib import get_close_matches

from jsonargparse import ArgumentParser, DefaultHelpFormatter

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
    """Help that shows what is required and the defaults. Types stand in the text where they need saying."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        for unwanted in ("type: %(type)s", *(["default: %(default)s"] if action.default is None else [])):
            text = text.replace(f", {unwanted}", "").replace(f"{unwanted}, ", "").replace(f" ({unwanted})", "")
        return text


def plain_error(text: str, parser: ArgumentParser) -> str:
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
    """What is wrong with the value of one key. The first class that was tried and failed says most."""
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
