"""A config is data: no code that it names is imported, made or run unless the command line allows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eyas.__main__ import main, parse
from eyas.commands.config_files import code_is_asked_for
from eyas.comparison.arms import ArmOptions
from eyas.runs.recipes import allow_code, refuse_code
from eyas.tools.own_modules import find_own_modules, modules_of_command
from eyas.types import EyasError
from helpers.tiny import MODEL, one_epoch, options, write_squares

DISTILL = ["distill", "--data=d", "--teacher=t", "--model=shuffledet", "--out=o"]
OWN = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from eyas import FGFI
class Mine(FGFI):
    pass
def make():
    raise RuntimeError("called")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a module of its own whose import leaves a mark."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)
    return tmp_path


def ran(place: Path) -> bool:
    return (place / "own_losses.ran").exists()


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 20))])
MADE = "{class_path: own_losses.Mine}"
NAMED = [
    f"options: {{width: {MADE}}}",
    "options: {width: '{class_path: own_losses.Mine}'}",
    f"options: {{shapes: [[1, {MADE}]]}}",
    f"options: {MADE}",
    f"dataset: {MADE}",
    "dataset: own_losses.Mine",
    "dataset.resize: own_losses.Mine",
    f"dataset: {{resize: {MADE}}}",
    f"optim: {{lr: {MADE}}}",
    f"method: {MADE}",
    "method: own_losses.Mine",
    f"method: [eyas.FGFI, {MADE}]",
    "method.class_path: own_losses.Mine",
    "method: {class_path: eyas.FGFI, init_args: {weight: own_losses.Mine}}",
    f"method: {{class_path: eyas.FGFI, init_args: {{weight: {MADE}}}}}",
    'method: {class_path: eyas.FGFI, init_args: {weight: "class_path: \\"own_losses\\\\x2eMine\\""}}',
    'method: "class_path: own_losses.Mine"',
    "teacher: own_losses:make",
    "config: other.yaml",
]


@pytest.mark.parametrize("last", [[], ["--print_config"], ["--method.help=eyas.FGFI"]])
@pytest.mark.parametrize("text", NAMED)
def test_nothing_that_a_config_names_is_imported(
    place: Path, text: str, last: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "other.yaml").write_text("method: own_losses.Mine")
    (place / "recipe.yaml").write_text(f"run: {{epochs: 1}}\n{text}\n")
    assert main([*DISTILL, "--config=recipe.yaml", *last]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: ") and said.count("\n") == 1
    assert not ran(place) and "own_losses" not in sys.modules


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["evaluate"], "run: own_losses:make"),
        (["data"], "data: d\nmodel: own_losses:make"),
        (["report", "r"], "teacher: own_losses:make"),
        (["compare", "--out=o"], f"data: d\nteacher: t\nstudent: {{model: shuffledet}}\narms: {{a: {MADE}}}"),
        (["compare", "--out=o"], f"data: d\nteacher: t\nstudent: {{model: shuffledet, options: {{width: {MADE}}}}}"),
        (["compare", "--out=o"], "data: d\nteacher: own_losses:make\nstudent: {model: shuffledet}"),
        (["train", "--data=d", "--model=m", "--out=o"], f"options: {MADE}"),
    ],
)
def test_other_commands(place: Path, line: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "recipe.yaml").write_text(text)
    assert main([*line, "--config=recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyas: ") and said.count("\n") == 1
    assert not ran(place)


def test_the_message_names_the_file_and_the_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "recipe.yaml").write_text("method: own_losses.Mine")
    assert main([*DISTILL, "--config=recipe.yaml"]) == 2
    assert (
        "recipe.yaml: method names own_losses.Mine" in (said := capsys.readouterr().err) and "--allow_code true" in said
    )
    (place / "recipe.yaml").write_text("options: {width: {class_path: subprocess.Popen, init_args: {args: id}}}")
    assert main([*DISTILL, "--config=recipe.yaml"]) == 2
    assert "recipe.yaml: options.width.class_path names 'subprocess.Popen'" in capsys.readouterr().err
    (place / "recipe.yaml").write_text("allow_code: true\nmethod: own_losses.Mine")
    assert main([*DISTILL, "--config=recipe.yaml"]) == 2
    assert "allow_code is for the command line alone" in capsys.readouterr().err
    assert not ran(place)


@pytest.mark.parametrize(
    "given", [["--allow_code", "true", "--config=recipe.yaml"], ["--config=recipe.yaml", "--allow-code"]]
)
def test_the_command_line_allows_it(place: Path, given: list[str]) -> None:
    """The module lies in the working folder, and the option is not recorded with the run."""
    (place / "recipe.yaml").write_text("method: {class_path: own_losses.Mine, init_args: {psi: 0.25}}")
    with allow_code(code_is_asked_for(given)), modules_of_command():
        _, parser, config = parse([*DISTILL, *given])
        assert parser.instantiate(config).method.psi == 0.25
    assert ran(place) and str(place) not in sys.path


def test_what_the_command_line_names_needs_no_permission(place: Path) -> None:
    with modules_of_command():
        _, parser, config = parse([*DISTILL, "--method=own_losses.Mine", "--method.psi=0.25"])
        assert type(parser.instantiate(config).method).__name__ == "Mine"
    assert ran(place)


def test_options_of_a_config_stay_plain_values(place: Path) -> None:
    (place / "recipe.yaml").write_text("options: {width: 0.25, shapes: [[17, 24], [28, 35]], name: text, lr: 1e-3}")
    _, _, config = parse(["train", "--data=d", "--model=m", "--out=o", "--config=recipe.yaml", "--options.width=0.5"])
    assert config["options"] == {"width": 0.5, "shapes": [[17, 24], [28, 35]], "name": "text", "lr": 1e-3}


@pytest.mark.parametrize(
    "text",
    ["options: &a {x: [*a]}", "options: " + "[" * 3000, f"options: {'{x: ' * 50}1{'}' * 50}", b"\xff\xfe", LAUGHS],
)
def test_a_bomb_is_refused_with_the_name_of_the_file(
    place: Path, text: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([*DISTILL, "--config=recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"eyas: recipe\.yaml(:1)?: ", said) and said.count("\n") == 1


def test_a_bomb_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    bomb = "{" + LAUGHS.replace("\n", ", ") + "}"
    for option in ("options", "dataset", "optim.lr", "dataset.classes"):
        assert main([*DISTILL, f"--{option}={bomb}"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and len(said) < 2000


def test_code_in_a_method_is_found_at_any_depth() -> None:
    refuse_code(None, "here")
    refuse_code([{"class_path": "eyas.FGFI", "init_args": {"weight": "auto", "psi": 0.5}}, "fgfi"], "here")
    for value in ("a.B", ["a.B"], {"x": {"y": ["a.B"]}}, "{x: a.B}", '["a\\x2eB"]'):
        with pytest.raises(EyasError, match=r"here names a\.B, which is not a part of Eyas"):
            refuse_code(value, "here")
    with allow_code(True):
        refuse_code("a.B", "here")
    with pytest.raises(ValueError, match="aliases written out"):
        ArmOptions.parse("{a: &a [" + "x, " * 100_000 + "], b: [" + "*a, " * 10 + "]}")


def test_a_function_that_exists_as_a_file_is_a_file(place: Path) -> None:
    (place / "runs:one").mkdir()
    refuse_code("runs:one", "here", functions=True)
    refuse_code("hub/some-model", "here", functions=True)


def test_the_working_folder_is_found_last_and_only_for_a_command(place: Path) -> None:
    before = list(sys.path)
    find_own_modules()
    assert sys.path == before, "from Python nothing is changed"
    with modules_of_command():
        assert sys.path == before
        find_own_modules()
        assert sys.path == [*before, str(place)]
    assert sys.path == before


@pytest.mark.slow
def test_files_called_like_modules_in_the_working_folder(place: Path) -> None:
    """With one process, with two, and with the trainings of a comparison."""
    for name in ("queue", "types", "random", "wandb", "numba", "cv2", "tensorflow"):
        (place / f"{name}.py").write_text(f"raise SystemExit('the user\\'s own {name}.py')")
    data = write_squares(place / "squares")
    run = one_epoch(place / "run", data)
    eyas = [str(Path(sys.executable).with_name("eyas"))]
    module = [sys.executable, "-m", "eyas"]
    train = ["train", f"--data={data}", *options(run_epochs=1)]
    student = {
        "model": "shuffledet",
        "options": MODEL,
        "run": {"epochs": 1, "device": "cpu"},
        "dataset": {"workers": 0},
    }
    (place / "compare.yaml").write_text(json.dumps({"student": student, "seeds": [0]}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number, command in enumerate(
        (
            [*eyas, *train, f"--out={place / 'one'}"],
            [*eyas, *train, f"--out={place / 'two'}", "--devices=2"],
            [*eyas, "evaluate", str(run), f"--data={data}", "--workers=0"],
            [*eyas, "compare", "--config=compare.yaml", f"--data={data}", f"--teacher={run}", "--out=compared"],
            [*module, "recipes"],
        )
    ):
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (number, done.stderr[-2000:])
