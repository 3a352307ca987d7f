"""The licences page names every package that Eyas asks for and all that it ships; nothing is under the AGPL."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "licences.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked_for() -> set[str]:
    specs = [*PROJECT["dependencies"], *(spec for extra in PROJECT["optional-dependencies"].values() for spec in extra)]
    return {canonicalize_name(Requirement(spec).name) for spec in specs} - {"eyas"}


def with_what_they_install(names: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needs = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # an extra that is not installed here
            continue
        found.add(name)
        waiting += [
            canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return found


def test_the_page_has_a_row_for_every_package_that_is_asked_for() -> None:
    rows = re.search(r"^\| package \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert rows is not None
    cells = [row.split("|")[1] for row in rows.group().strip().splitlines()[2:]]
    listed = [canonicalize_name(name.strip()) for cell in cells for name in cell.split(",")]
    assert len(set(listed)) == len(listed)
    assert set(listed) == asked_for()


def test_everything_shipped_is_on_the_page() -> None:
    assets = ROOT / "src" / "eyas" / "assets"
    for folder in assets.iterdir():
        assert f"`{folder.relative_to(ROOT).as_posix()}`" in PAGE, folder
    files = {path.name for path in assets.rglob("*") if path.is_file()}
    known = {
        "demo.yaml",
        "presets.yaml",
        "model.json",
        "model.safetensors",
        "provenance.json",
        "page.html",
        "style.css",
    }
    assert files == known, "a new file needs its origin and licence on the page"


def test_nothing_is_under_the_agpl() -> None:
    packages = with_what_they_install(asked_for())
    assert {"torch", "sympy", "tqdm"} <= packages, "the walk reaches what is installed in turn"
    for name in sorted(packages):
        said = metadata.metadata(name)
        name_or_text = (said.get("License") or "").strip().splitlines()[:1]  # some write the licence's whole text there
        stated = [*(said.get_all("Classifier") or []), said.get("License-Expression"), *name_or_text]
        text = " ".join(filter(None, stated))
        if re.search(r"AGPL|Affero", text):
            pytest.fail(f"{name}: {text}")
