"""``--method NAME:FAMILY``: the published constants of a method on a family, as data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.__main__ import main, parse
from eyas.commands.methods import method_class
from eyas.commands.names import METHODS
from eyas.commands.presets import published
from eyas.comparison.arms import ArmOptions, resolve_arms
from eyas.types import EyasError

DISTILL = "distill --data d --teacher t --model m --out o "
EVERY = [(name, family) for name, families in published().items() for family in families]


@pytest.mark.parametrize(("name", "family"), EVERY)
def test_every_preset_makes_its_method(name: str, family: str) -> None:
    preset = published()[name][family]
    assert name in METHODS and preset.source
    method = method_class(name)(**preset.options)
    assert isinstance(method.weight, float), "the published weight, a number"


def method_given(line: str) -> Any:
    _, parser, config = parse(shlex.split(DISTILL + line))
    return json.loads(json.dumps(yaml.safe_load(parser.dump(config, skip_validation=True))["method"]))


def test_a_method_with_a_family_has_its_constants_and_they_are_what_is_recorded() -> None:
    found = method_given("--method fgfi:faster_rcnn")
    assert found["class_path"] == "eyas.FGFI"
    options = published()["fgfi"]["faster_rcnn"].options
    assert {name: found["init_args"][name] for name in options} == options


def test_options_on_the_command_line_and_in_yaml_override_those_of_a_preset(tmp_path: Path) -> None:
    assert method_given("--method fgfi:faster_rcnn --method.psi 0.3")["init_args"]["psi"] == 0.3
    config = tmp_path / "fgfi.yaml"
    config.write_text("method: {class_path: fgfi:faster_rcnn, init_args: {psi: 0.2}}")
    found = method_given(f"--config {config}")["init_args"]
    assert (found["psi"], found["weight"]) == (0.2, 0.01)


def test_several_methods_may_have_families() -> None:
    assert [one["class_path"] for one in method_given("--method fgfi:faster_rcnn,vanilla")] == [
        "eyas.FGFI",
        "eyas.Vanilla",
    ]


def test_an_arm_may_be_a_method_with_a_family() -> None:
    arms = {"published": ArmOptions("fgfi:faster_rcnn"), "other": ArmOptions(["fgfi:faster_rcnn", {"method.psi": 0.3}])}
    resolved = resolve_arms(ArmOptions({"model": "m"}), arms)
    assert resolved["published"]["method"] == "fgfi:faster_rcnn"
    assert resolved["other"]["method"] == {"class_path": "fgfi:faster_rcnn", "init_args": {"psi": 0.3}}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("fgfi:fcos", "--method fgfi:fcos: fgfi has published constants for faster_rcnn, shuffledet; without a family"),
        ("vanilla:fcos", "--method vanilla:fcos: vanilla has no published constants; without a family"),
        ("fly:fcos", "--method: give "),
    ],
)
def test_what_is_not_published_is_refused(method: str, said: str) -> None:
    with pytest.raises(EyasError) as caught:
        parse(shlex.split(f"{DISTILL}--method {method}"))
    assert str(caught.value).startswith(said)


def test_they_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "presets.json"
    assert main(["methods", "--presets", f"--json_file={file}"]) == 0
    printed = capsys.readouterr().out
    for name, family in EVERY:
        assert f"{name}:{family}" in printed
    assert json.loads(file.read_text())["fgfi"]["faster_rcnn"]["options"]["weight"] == 0.01
