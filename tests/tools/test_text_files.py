"""YAML and JSON of strangers: bombs, depth, rubbish and pipes are refused by one message that names the file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.tools.text_files import DEPTH_LIMIT, YAML_LIMIT, parse_yaml, read_json, read_yaml, read_yaml_mapping
from eyas.types import EyasError


def laughs(levels: int, holds: str = "[*{0}, *{0}, *{0}, *{0}]") -> str:
    """A mapping that holds another one some times, and so on: billions of leaves in a few hundred bytes."""
    lines = [f"a{level}: &a{level} {holds.format(f'a{level - 1}')}" for level in range(1, levels)]
    return "\n".join(["a0: &a0 {x: y}", *lines])


BAD: dict[str, tuple[str | bytes, str]] = {
    "bomb": (laughs(16), "with its aliases written out"),
    "bomb of one long text": (f"a: &a {'x' * 10_000}\nb: [{'*a, ' * 1000}]", "with its aliases written out"),
    "merged bomb": (laughs(20, "{{<<: *{0}, p: *{0}, q: *{0}}}"), "with its aliases written out"),
    "deep": ("[" * 5000, "within each other"),
    "deep and whole": ("a: " + "[" * 3000 + "]" * 3000, "within each other"),
    "deep by lines": ("\n".join(" " * level + "a:" for level in range(200)), "within each other"),
    "within itself": ("a: &a [*a]", "stands within what it names"),
    "number in base 60": ("a: 1" + ":59" * 2000, "a number of 100 digits or more"),
    "number in base 16": ("a: 0x" + "f" * 5000, "a number of 100 digits or more"),
    "value of another tag": ("a: !!bool x", "not readable as YAML"),
    "date without one": ("a: !!timestamp x", "not readable as YAML"),
    "cut off": ("a: [1, 2", "did not find expected .*, line 2"),
    "two values": ("a: 1\n--- \nb: 2", "found another document, line 2"),
    "tag": ("!!python/object/apply:os.abort []", "could not determine a constructor"),
    "date of no calendar": ("a: 2001-99-99", "month must be in 1..12"),
    "whole number without a digit": ("a: !!int ''", "string index out of range"),
    "truth that is none": ("a: !!bool maybe", "maybe"),
    "time that is none": ("a: !!timestamp x", "groupdict"),
    "key that is a list": ("? [a]\n: 1", "unhashable key"),
    "long": ("a: " + "x" * YAML_LIMIT, "the limit for a file of its kind"),
    "NUL": ("a: \0", "not readable as YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_yaml_that_is_refused(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    path = tmp_path / "some.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises(EyasError, match=rf"^{path}: [^\n]*{said}[^\n]*$"):
        read_yaml(path)
    assert time.monotonic() - start < 2


def test_text_that_is_not_utf_8_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_bytes(b"a: 1\nb: \xff\xfe")
    with pytest.raises(EyasError, match=r"some\.yaml:2: is not UTF-8 text"):
        read_yaml(tmp_path / "some.yaml")


def test_yaml_that_is_read_is_what_pyyaml_reads(tmp_path: Path) -> None:
    shared = {"class_path": "eyas.FGFI", "init_args": {"psi": 0.5, "shapes": [[1, 2], [3, 4]]}}
    value = {"a": shared, "b": [shared, shared], "c": None, "d": "1e-3", "e": True, "classes": ["é", "中"]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    assert "&id001" in (tmp_path / "a.yaml").read_text(encoding="utf-8"), "aliases are common in written configs"
    assert read_yaml(tmp_path / "a.yaml") == value
    deep = parse_yaml("[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT, "text")
    for _ in range(DEPTH_LIMIT - 1):
        (deep,) = deep
    assert deep == []


@pytest.mark.parametrize(("text", "value"), [("", {}), ("# a remark", {}), ("a: 1", {"a": 1})])
def test_a_mapping(tmp_path: Path, text: str, value: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml_mapping(tmp_path / "a.yaml") == value


@pytest.mark.parametrize("text", ["- 1", "5", "text", "1: a", "[a]: 1"])
def test_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(EyasError, match=r"a\.yaml: "):
        read_yaml_mapping(tmp_path / "a.yaml")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"5", b"", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_json_that_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(EyasError, match=rf"^{path}(:1)?: "):
        read_json(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None, lambda path: os.symlink(path, path)])
def test_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe is not waited for."""
    make(tmp_path / "a.yaml")
    with pytest.raises(EyasError, match=r"a\.yaml: "):
        read_yaml(tmp_path / "a.yaml")
