"""Reads untrusted YAML and JSON: bounded in size, depth and expansion, and refused by one message with the file's name.

A few lines of YAML can expand beyond memory, by aliases of aliases, and a few kilobytes of brackets overflow the stack
of a parser. Both are found in the parser's events, before a value is made.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from eyas.tools.files import check_file
from eyas.types import EyasError

YAML_LIMIT = 2**20
"""Characters of a YAML text, with and without its aliases written out."""
JSON_LIMIT = 2**26
"""Bytes of a JSON file."""
DEPTH_LIMIT = 40
"""Mappings and lists within each other."""
LONG_NUMBER = re.compile(r"(?=.{100})[-+]?([\d_:.]+|0[xb][\da-fA-F_]+)")
"""YAML's integers in base 60, such as 1:59:59, take quadratic time, and Python refuses to print the longest ones."""
CONSTRUCTOR_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What PyYAML raises, beside its own errors, where a value does not fit its tag, such as ``!!bool x``."""
DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
"""The encoding that an XML file says it has."""
EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file. Raises EyasError that names it: missing, not UTF-8, not YAML, or beyond a limit."""
    return parse_yaml(read_text(path, YAML_LIMIT), str(path))


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, empty for an empty file. Raises EyasError like `read_yaml`, and for another value."""
    return _mapping(read_yaml(path) or {}, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises EyasError that names it: missing, not UTF-8, no JSON object, or too large."""
    return _mapping(parse_json(read_text(path, JSON_LIMIT), str(path)), path)


def parse_yaml(text: str, where: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """The value of a YAML text, as ``load`` makes it. Raises EyasError that begins with ``where``."""
    try:
        check_yaml(text)
        return load(text)
    except (yaml.YAMLError, *CONSTRUCTOR_ERRORS, EyasError) as error:
        raise EyasError(f"{where}: not readable as YAML ({_one_line(error)})") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises EyasError that begins with ``where``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EyasError(f"{where}: not readable as JSON ({_one_line(error)})") from error


def read_text(path: Path, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes. Raises EyasError that names it: no file, too large, not UTF-8."""
    try:
        check_file(path)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise EyasError(f"{path}: has more than {limit:,} bytes, the limit for a file of its kind")
            content = file.read()
    except OSError as error:
        raise EyasError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return content.decode(_encoding(content))
    except (UnicodeDecodeError, LookupError) as error:
        line = content.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise EyasError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8, or get it again") from error


def _encoding(content: bytes) -> str:
    """UTF-8, unless a byte order mark shows UTF-16, as Windows writes it, or XML declares another encoding."""
    if len(content) > 2 and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    declared = DECLARED.match(content)
    if declared is None:
        return "utf-8-sig"
    with suppress(UnicodeDecodeError):  # many tools declare what they do not write
        content.decode("utf-8")
        return "utf-8"
    return declared.group(1).decode()


def check_yaml(text: str) -> None:
    """Check a YAML text against the limits, without making a value of it.

    Raises:
        EyasError: it is too long, too deep, or too long once its aliases are written out.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) > YAML_LIMIT:
        raise EyasError(f"more than {YAML_LIMIT:,} characters")
    sizes: dict[str, int | None] = {}
    open_nodes: list[list[Any]] = [[None, 0]]  # anchor and size of each mapping or list that is open
    for event in yaml.parse(text, Loader=EVENTS):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
            if event.anchor is not None:
                sizes[event.anchor] = None
            if len(open_nodes) > DEPTH_LIMIT + 1:
                raise EyasError(f"more than {DEPTH_LIMIT} mappings and lists within each other")
            continue
        anchor, size = _closed(event, open_nodes, sizes)
        if anchor is not None:
            sizes[anchor] = size
        open_nodes[-1][1] += size
        if open_nodes[-1][1] > YAML_LIMIT:
            raise EyasError(f"more than {YAML_LIMIT:,} characters with its aliases written out")


def _closed(event: yaml.Event, open_nodes: list[list[Any]], sizes: Mapping[str, int | None]) -> tuple[str | None, int]:
    """The anchor and the size of the node that an event completes; the size is 0 where it completes none."""
    if isinstance(event, yaml.CollectionEndEvent):
        anchor, size = open_nodes.pop()
        return anchor, size
    if isinstance(event, yaml.ScalarEvent):
        if LONG_NUMBER.fullmatch(event.value):
            raise EyasError("a number of 100 digits or more")
        return event.anchor, 1 + len(event.value)
    if isinstance(event, yaml.AliasEvent):
        known = sizes.get(event.anchor or "", 1)  # an unknown alias is the composer's error
        if known is None:
            raise EyasError(f"the alias *{event.anchor} stands within what it names")
        return None, known
    return None, 0


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise EyasError(f"{path}: a mapping of names to values is expected")
    return value


def _one_line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "problem", None) or error).split()) or type(error).__name__
    mark = getattr(error, "problem_mark", None)
    return text[:200] + (f", line {mark.line + 1}" if mark is not None else "")
