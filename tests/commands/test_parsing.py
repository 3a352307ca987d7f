"""From a signature to options: shared dataclasses at the top level, methods in a second pass, errors in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.__main__ import COMMANDS, PLACES, command, main, parse
from eyas.args import StudentArgs, TeacherArgs
from eyas.commands.parsing import command_parser, one_parameter_each, resolve_options, run_config
from eyas.methods import FGFI, FitNets
from eyas.types import EyasError

DISTILL = ["distill", "--data=d", "--teacher=t", "--model=m", "--out=o"]


def teach(student: StudentArgs, cache: Path, out: str = "o", teaching: TeacherArgs = TeacherArgs()) -> tuple[Any, ...]:
    """A command of the tests.

    Args:
        out: a folder.
        weights: the command's own words.
        cache: required here.
    """
    return student, cache, out, teaching


def test_fields_of_a_shared_dataclass_are_options_and_make_it() -> None:
    parser = command_parser(teach)
    config = parser.parse_args(["--model=m", "--cache=c", "--options={a: 1}", "--teacher_scale=2"])
    student, cache, out, teaching = run_config(teach, parser, config)
    assert student == StudentArgs("m", options={"a": 1})
    assert (cache, out) == (Path("c"), "o")
    assert teaching == TeacherArgs(teacher_scale=2.0, cache=Path("c"))


def test_a_parameter_of_its_own_wins_over_a_field_of_its_name() -> None:
    flat = one_parameter_each(teach, methods=False)
    parser = command_parser(teach)
    with pytest.raises(EyasError, match="required and not given: model, cache; see eyas --help"):
        resolve_options(teach, [])
    help_of = {action.dest: action.help for action in parser._actions}
    assert help_of["cache"] == "required here."
    assert help_of["weights"] == "the command's own words."
    assert help_of["backbone"].startswith("backbone of the family")
    assert flat.__doc__ is not None and flat.__doc__.startswith("A command of the tests.")


@pytest.mark.parametrize("name", COMMANDS)
def test_required_options_come_first(name: str) -> None:
    options = one_parameter_each(command(name), methods=False).__signature__.parameters.values()  # type: ignore[attr-defined]
    required = [option.default is option.empty for option in options]
    assert required == sorted(required, reverse=True)


def method_of(*arguments: str) -> Any:
    _, parser, config = parse([*DISTILL, *arguments])
    return parser.instantiate(config).method


def test_every_form_of_a_method_on_the_command_line() -> None:
    for arguments in (
        ["--method=eyas.FGFI", "--method.psi=0.3"],
        ["--method", "eyas.FGFI", "--method.psi", "0.3"],
        ["--method.class_path=eyas.FGFI", "--method.init_args.psi=0.3"],
        ["--method=FGFI", "--method.init_args.psi", "0.3"],
        ["--method={class_path: eyas.FGFI, init_args: {psi: 0.3}}"],
    ):
        method = method_of(*arguments)
        assert type(method) is FGFI and method.psi == 0.3, arguments
    assert [type(method) for method in method_of("--method+=eyas.FGFI", "--method+=eyas.FitNets")] == [FGFI, FitNets]
    assert method_of() is None


def test_a_method_of_a_file_is_found_too(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: [{class_path: eyas.FGFI}, {class_path: eyas.FitNets}]\n")
    assert [type(method) for method in method_of(f"--config={recipe}")] == [FGFI, FitNets]
    assert method_of(f"--config={recipe}", "--method=null") is None


def test_both_passes_record_the_same_config() -> None:
    """The first pass ends where no method is given, and what a run records does not show which pass it was."""
    _, light, config = parse(DISTILL)
    full = command_parser(command("distill"))
    assert full.dump(full.parse_args(DISTILL[1:])) == "".join(
        line for line in light.dump(config).splitlines(keepends=True) if line.split(":")[0] not in ("devices", *PLACES)
    )


def test_print_config_shows_the_arguments_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*DISTILL, "--method=eyas.FGFI", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["method"]["init_args"]["psi"] == 0.5
    assert list(shown)[:8] == ["data", "teacher", "model", "out", "backbone", "weights", "options", "method"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*DISTILL, "--any_teacher=maybe"], "--any_teacher: give true or false, not maybe"),
        ([*DISTILL, "--run.resume=perhaps"], "--run.resume: give true, false or auto, not perhaps"),
        ([*DISTILL, "--optim.lr=fast"], "--optim.lr: give a number such as 0.01, not fast"),
        ([*DISTILL, "--devices=0"], "--devices: give a whole number above 0, not 0"),
        ([*DISTILL, "--pairs=3"], "--pairs: give a mapping such as '{name: value}', index or null, not 3"),
        ([*DISTILL, "--gamma=1"], "--gamma: there is no such option; did you mean --optim.gamma?"),
        ([*DISTILL, "--method=eyas.Nothing"], "--method: eyas.Nothing: module 'eyas' has no attribute 'Nothing'"),
        (["distill", "--data=d"], "required and not given: teacher, model, out; see eyas distill --help"),
        (["evaluate", "r", "--metric=map"], "--metric: give coco, voc, kitti or null, not map"),
    ],
)
def test_errors_are_one_plain_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"eyas: {said}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: 3", "--optim: give a mapping of its options, not 3"),
        ("optim: {rate: 1}", "--optim.rate: there is no such option; did you mean --optim.lr?"),
        (
            "run: {trackers: csv}",
            "--run.trackers: give tensorboard, wandb, mlflow, a list such as tensorboard,wandb or null, not csv",
        ),
        ("dataset: {resize: {height: a}}", "--dataset.resize.height: give a whole number such as 1 or null, not a"),
    ],
)
def test_errors_of_a_file_name_the_option(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "config.yaml").write_text(text)
    assert main([*DISTILL, f"--config={file}"]) == 2
    assert capsys.readouterr().err == f"eyas: {said}\n"
