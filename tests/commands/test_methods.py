"""`eyas methods`: the list, and which methods work with a pair."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import eyas
from eyas.__main__ import main
from eyas.commands.methods import facts, method_class
from eyas.commands.names import METHODS
from eyas.methods.cells import CellMethod
from helpers.tiny import MODEL

WITHOUT_A_PAPER = ("self_similarity",)
PAIR = ("--teacher=helpers.tiny:poor_teacher", "--model=shuffledet", f"--options={json.dumps(MODEL)}", "--resize=64")


def test_every_public_method_is_listed_by_a_short_name() -> None:
    public = {getattr(eyas, name) for names in eyas.HOMES.values() for name in names}
    methods = {each for each in public if isinstance(each, type) and issubclass(each, eyas.Method)}
    assert {method_class(name) for name in METHODS} == methods - {eyas.Method}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_listed_is_what_the_class_says(name: str) -> None:
    method = method_class(name)()
    listed = facts(name)
    assert getattr(eyas, listed.class_path.rpartition(".")[2]) is type(method)
    assert method.name == name, "the key of the loss in logs is the short name"
    in_a_paper = re.search(r"\(.*(19|20)\d\d", listed.summary) is not None
    assert in_a_paper == (name not in WITHOUT_A_PAPER), "the first line of the docstring names the paper and its year"
    assert ("heads" in listed.needs) == ("heads" in method.reads)
    assert ("proposals" in listed.needs) == any("proposals" in str(read) for read in method.reads)
    assert listed.teacher == ("up to its last level" if not method.reads else "with its heads")
    assert listed.cached == (isinstance(method, CellMethod) and not method.reads), "a cache holds vectors at cells"


def test_the_list_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line[0] for line in lines[2 : 2 + len(METHODS)]] == list(METHODS)


def test_a_pair_has_what_applies_and_why_the_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("roi_mimic", "fgfi")
    monkeypatch.setattr("eyas.commands.methods.METHODS", {name: METHODS[name] for name in few})
    file = tmp_path / "methods.json"
    assert main(["methods", *PAIR, f"--json_file={file}"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["methods"]
    assert list(found) == list(few)
    assert found["fgfi"]["applies"] and found["fgfi"]["cost"] > 0
    assert not found["roi_mimic"]["applies"] and "makes no proposals" in found["roi_mimic"]["reason"]
    rows = {line.split()[0]: line.split()[1] for line in printed.splitlines() if len(line.split()) > 1}
    assert rows["fgfi"] == "yes" and rows["roi_mimic"] == "no"
    assert found["roi_mimic"]["reason"] in printed


@pytest.mark.parametrize("half", PAIR[:2])
def test_half_a_pair_is_refused(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", half]) == 2
    assert "give both" in capsys.readouterr().err
