"""What people type: short names, dashes, switches, sizes, lists and methods; and one sentence where it is refused."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import eyas
from eyas.__main__ import COMMANDS, main, parse, parser_of
from eyas.commands.names import METHODS, SHORT, method_path
from eyas.commands.parsing import parse_options, resolve_options
from eyas.commands.refusals import is_group, options_of
from eyas.commands.train import train
from eyas.methods import FGFI, FitNets, Method
from eyas.types import EyasError

TRAIN = "train --data d --model m --out o "
DISTILL = "distill --data d --teacher t --model m --out o "
SIZES = "give WIDTHxHEIGHT such as 640x480, one number for a square, or a mapping such as "
SIZES += "'{shorter: 600, longer: 1000}', not "
NAMED = f"give {', '.join(METHODS)}, or the import path of a class, not "
JARGON = re.compile(r"NestedArg|[Ss]ubtype|Unable to load|Parser key|Expected an? <|<class|typing\.|Namespace|Union")
ODD = ("x", "3", "-1", "nan", "[", "[a]", "[[1]]", "{a: 1}", "{", "", "a: b: c", "*a", "!!x 1", "\x1b", "os.path")


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        (TRAIN + "--epochs 3", "run.epochs", 3),
        (TRAIN + "--lr=0.5", "optim.lr", 0.5),
        (TRAIN + "--seed 7", "run.seed", 7),
        (TRAIN + "--batch-size 4", "dataset.batch_size", 4),
        (TRAIN + "--batch_size 4", "dataset.batch_size", 4),
        (TRAIN + "--workers 2", "dataset.workers", 2),
        (TRAIN + "--device cpu", "run.device", "cpu"),
        (TRAIN + "--device cpu", "devices", 1),
        (TRAIN + "--dataset.batch-size 4", "dataset.batch_size", 4),
        (TRAIN + "--imgsz 640", "dataset.resize.width", 640),
        (TRAIN + "--imgsz 640", "dataset.resize.height", 640),
        (TRAIN + "--dataset.resize 320x240", "dataset.resize.width", 320),
        (TRAIN + "--dataset.resize 320x240", "dataset.resize.height", 240),
        (TRAIN + "--dataset.resize '{shorter: 600}'", "dataset.resize.shorter", 600),
        (TRAIN + "--dataset.classes RBC,WBC", "dataset.classes", ["RBC", "WBC"]),
        (TRAIN + "--dataset.classes '[RBC, white cell]'", "dataset.classes", ["RBC", "white cell"]),
        (TRAIN + "--dataset.classes 'white cell'", "dataset.classes", ["white cell"]),
        (TRAIN + "--dataset.classes 1,2", "dataset.classes", ["1", "2"]),
        (TRAIN + "--optim.milestones 0.5,0.9", "optim.milestones", (0.5, 0.9)),
        (TRAIN + "--run.trackers wandb", "run.trackers", "wandb"),
        (TRAIN + "--run.trackers wandb,mlflow", "run.trackers", ["wandb", "mlflow"]),
        (TRAIN + "--run.metric COCO", "run.metric", "coco"),
        (TRAIN + "--run.compile --seed 3", "run.compile", True),
        (TRAIN + "--run.resume", "run.resume", True),
        (TRAIN + "--run.resume auto", "run.resume", "auto"),
        (TRAIN + "--optim.lr -1", "optim.lr", -1.0),
        (DISTILL + "--any-teacher", "any_teacher", True),
        (DISTILL + "--pairs.a b", "pairs", {"a": "b"}),
        ("evaluate --best r", "best", True),
        ("evaluate --best r", "run", "r"),
        ("evaluate r --best", "best", True),
        ("evaluate r --best false", "best", False),
        ("evaluate r --workers 3", "workers", 3),
        ("inspect r --imgsz 320x240", "resize.height", 240),
        ("data d --split train", "split", ["train"]),
        ("data d --split train,test --classes a,b", "split", ["train", "test"]),
        ("compare --data d --teacher t --student s --out o --seeds 1,2", "seeds", [1, 2]),
    ],
)
def test_what_people_type(line: str, option: str, value: object) -> None:
    _, _, config = parse(shlex.split(line))
    assert config[option] == value


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("distill --conf 0.25", "--conf: there is no such option; did you mean --config?"),
        ("predict r i --conf 0.25", "--conf: there is no such option; did you mean --threshold?"),
        (TRAIN + "--eval 1", "--eval: there is no such option; see eyas train --help"),
        (TRAIN + "--learning-rate=1", "--learning-rate: there is no such option; did you mean --optim.lr?"),
        (TRAIN + "--optimizer sgd", "--optimizer: there is no such option; did you mean --optim.optimizer?"),
        (TRAIN + "--run.epoch 3", "--run.epoch: there is no such option; did you mean --run.epochs?"),
        (TRAIN + "--momentun 0.9", "--momentun: there is no such option; did you mean --optim.momentum?"),
        (TRAIN + "--batch 3", "--batch: there is no such option; did you mean --dataset.batch_size?"),
        (TRAIN + "--gpus 2", "--gpus: there is no such option; did you mean --devices or --run.device?"),
        (TRAIN + "--output x", "--output: there is no such option; did you mean --out?"),
        (
            TRAIN + "--dataset.resize.height.x=3",
            "--dataset.resize.height.x: there is no such option; did you mean --dataset.resize.height?",
        ),
        (TRAIN + "--epochs", "--run.epochs: give a whole number such as 12; nothing follows it"),
        (TRAIN + "--epochs --lr 1", "--run.epochs: give a whole number such as 12; nothing follows it"),
        (TRAIN + "--epochs many", "--run.epochs: give a whole number such as 12, not many"),
        (TRAIN + "--dataset.resize 3x4x5", f"--dataset.resize: {SIZES}3x4x5"),
        (TRAIN + "--imgsz big", f"--dataset.resize: {SIZES}big"),
        (TRAIN + "--optim os.path", "--optim: give a mapping of its options, not os.path"),
        (
            TRAIN + "--dataset.classes '{a: 1}'",
            "--dataset.classes: give a list such as a,b, a mapping such as '{name: value}' or null, not {a: 1}",
        ),
        (
            TRAIN + "--run.device cuda",
            "--run.device: give auto or cpu, not cuda; auto takes the accelerator where there is one",
        ),
        (
            TRAIN + "--dataset.classes a b",
            "b: no option stands before it; a list is given as a,b without spaces; see eyas train --help",
        ),
        (
            TRAIN + "--config nowhere.yaml",
            "nowhere.yaml: cannot be read (No such file or directory); --config takes a YAML file of options",
        ),
        (DISTILL + "--method unheard", f"--method: {NAMED}unheard"),
        (DISTILL + "--method fgfi,unheard", f"--method: {NAMED}unheard"),
        (DISTILL + "--method 3", f"--method: {NAMED}3"),
        (DISTILL + "--any_teacher maybe", "--any_teacher: give true or false, not maybe"),
        (DISTILL + "--pairs 3", "--pairs: give a mapping such as '{name: value}', index or null, not 3"),
        ("inspect r --images a", "--images: give a whole number such as 1 or null, not a"),
        ("predict r --images x", "--images is given without its name, by place: eyas predict RUN IMAGES [--OPTION V"),
        ("recipes fly", "action: give list or copy, not fly"),
        ("recipes copy", "name the recipe to copy: eyas recipes copy NAME; eyas recipes lists them"),
        ("recipes copy digits/studnt", "there is no recipe 'digits/studnt'; did you mean digits/student"),
        ("evalute r", "there is no command evalute; did you mean evaluate?"),
        (
            "compare --data d --teacher t --out o --student [",
            "--student: give a recipe, a YAML file, or a mapping such as '{model: retinanet}', not [",
        ),
    ],
)
def test_what_is_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"eyas: {said}") and error.count("\n") == 1


def one_option_of_each_type() -> Iterator[tuple[ArgumentParser, str]]:
    seen = set()
    for command in COMMANDS:
        parser = parser_of(command, methods=False)
        for name, action in options_of(parser).items():
            kind = name if is_group(action) else repr(getattr(action, "_typehint", None))
            if kind not in seen:
                seen.add(kind)
                yield parser, name


def test_no_value_of_any_option_brings_the_parsers_own_words() -> None:
    refused = 0
    for parser, name in one_option_of_each_type():
        for value in ODD:
            try:
                parse_options(lambda methods, parser=parser: parser, [f"--{name}={value}"])
            except EyasError as error:
                assert not JARGON.search(str(error)) and "\n" not in str(error), (name, value, str(error))
                refused += str(error).startswith(f"--{name}: ")
    assert refused > 150


@pytest.mark.parametrize(
    ("text", "height"), [("resize: 320x240", 240), ("resize: 320", 320), ("resize: '320x240'", 240)]
)
def test_a_file_has_sizes_and_methods_in_the_same_forms(text: str, height: int, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"dataset:\n  {text}\nmethod: [fgfi, fit-nets]\nrun:\n  epochs: 3\noptim: {{lr: 1e-3}}\n")
    _, parser, config = parse([*shlex.split(DISTILL), f"--config={file}", "--epochs=4"])
    assert (config["dataset.resize.height"], config["run.epochs"], config["optim.lr"]) == (height, 4, 1e-3)
    assert [type(method) for method in parser.instantiate(config).method] == [FGFI, FitNets]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: os.path", "--optim: give a mapping of its options, not os.path"),
        ("dataset: {resize: os.path}", f"--dataset.resize: {SIZES}os.path"),
        ("epochs: 3", "--epochs: there is no such option; did you mean --run.epochs?"),
        ("method: unheard", f"--method: {NAMED}unheard"),
        ("[1]", "FILE: a mapping of options is expected, such as `run: {epochs: 12}`"),
        ("run: {epochs: 3", "FILE: not readable as YAML (did not find expected ',' or '}', line 2)"),
    ],
)
def test_a_file_is_refused_by_one_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert main([*shlex.split(DISTILL), f"--config={file}"]) == 2
    assert capsys.readouterr().err == f"eyas: {said.replace('FILE', str(file))}\n"


@pytest.mark.parametrize("short", METHODS)
def test_a_method_by_its_short_name(short: str) -> None:
    cls = getattr(eyas, METHODS[short].removeprefix("eyas."))
    assert method_path(short) == method_path(cls.__name__) == METHODS[short]
    assert inspect.signature(cls).parameters["name"].default == short
    _, parser, config = parse([*shlex.split(DISTILL), "--method", short])
    assert type(parser.instantiate(config).method) is cls


def test_every_method_that_is_shipped_has_a_short_name() -> None:
    shipped = {cls.__name__ for cls in map(eyas.__getattr__, eyas.HOMES["methods"]) if issubclass(cls, Method)}
    assert {path.removeprefix("eyas.") for path in METHODS.values()} == shipped - {"Method"}


def test_methods_on_the_command_line_and_their_options() -> None:
    def methods(given: str) -> Any:
        _, parser, config = parse(shlex.split(DISTILL + given))
        return parser.instantiate(config).method

    assert methods("--method fgfi --method.psi 0.3").psi == 0.3
    assert [type(method) for method in methods("--method fgfi,fitnets")] == [FGFI, FitNets]
    assert [type(method) for method in methods("--method+ fgfi --method+ FitNets")] == [FGFI, FitNets]
    for given, said in (
        ("--method fgfi --method.psi x", "--method.psi: give a number, not x"),
        ("--method fgfi --method.sigh 1", "--method: eyas.FGFI has no option sigh; --method.help eyas.FGFI lists them"),
        ("--method.psi 0.3", "--method: say whose option it is: --method fgfi --method.NAME VALUE"),
        ("--method os.path", f"--method: {NAMED}os.path"),
    ):
        with pytest.raises(EyasError, match=re.escape(said)):
            methods(given)


def test_short_names_stand_in_the_help() -> None:
    text = parser_of("train", methods=False).format_help()
    assert all(f"--{name} for short" in text for name in SHORT)
    assert "WIDTHxHEIGHT" in text


def test_arms_of_a_comparison_take_the_same_forms() -> None:
    text = resolve_options(train, ["--data=d", "--model=m", "--out=o", "--imgsz=320x240", "--epochs=2"])
    assert "height: 240" in text and "epochs: 2" in text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"eyas \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
