"""Every recipe: its header says how to run it, its commands parse, and two steps of it run on data of its format."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.__main__ import main, parse
from eyas.detectors import build
from eyas.detectors.shuffledet.loss import OBJECT_WEIGHT
from eyas.runs.log import read_log
from eyas.runs.recipes import shipped_recipes
from helpers.recipe_data import small, write_data
from helpers.tiny_transformers import CONFIGS

RECIPES = shipped_recipes()
CONTENT: dict[str, dict[str, Any]] = {name: yaml.safe_load(path.read_text()) for name, path in RECIPES.items()}
MODELS = [name for name, content in CONTENT.items() if "model" in content]
METHODS = [name for name, content in CONTENT.items() if "method" in content]
OVERLAYS = [name for name in RECIPES if name not in {*MODELS, *METHODS}]
TEACHERS = [name for name in MODELS if name.rpartition("/")[2].startswith("teacher")]
STUDENTS = [name for name in MODELS if name not in TEACHERS]


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def beside(name: str, names: list[str]) -> list[str]:
    """Those of the names that are in the folder of the first."""
    return [other for other in names if folder_of(other) == folder_of(name)]


def header(name: str) -> list[str]:
    """The comment that a recipe opens with, line by line, without the marks."""
    lines = RECIPES[name].read_text().splitlines()
    return [line[1:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]


def commands(name: str) -> Iterator[list[str]]:
    """The arguments of every `eyas` line of a header; what stands in brackets behind it is a remark."""
    text = re.sub(r"\\\n\s*", "", "\n".join(header(name)))
    for line in text.splitlines():
        if line.startswith("   eyas "):
            yield shlex.split(re.sub(r"\s{2,}\(.*", "", line))[1:]


def teacher_of(name: str) -> str:
    """The recipe of the teacher that the header's command names, by its run folder; else the folder's first."""
    known = beside(name, TEACHERS)
    for arguments in commands(name):
        if "--teacher" in arguments:
            run = arguments[arguments.index("--teacher") + 1].rpartition("/")[2]
            known = [teacher for teacher in known if teacher.endswith(f"/{run}")] or known
    return known[0]


def student_of(name: str) -> str:
    """The first student recipe that a command in the header of a method's recipe names; else the folder's first."""
    known = beside(name, STUDENTS)
    for arguments in commands(name):
        for config in arguments:
            known = [student for student in known if config == f"{student.rpartition('/')[2]}.yaml"] or known
        if len(known) == 1:
            break
    return known[0]


PAIRS = [(name, student_of(name)) for name in METHODS]
"""(method, student), once for each method."""
MORE_PAIRS = [
    (name, student)
    for name in METHODS
    if name.endswith("/fgfi")
    for student in beside(name, STUDENTS)
    if (name, student) not in PAIRS
]


def slow_if_heavy(name: str) -> Any:
    """ResNets and VGGs at full width take seconds on a CPU core."""
    return pytest.param(name, marks=[pytest.mark.slow] if is_heavy(name) else [])


def is_heavy(name: str) -> bool:
    backbone = CONTENT[name].get("backbone", "")
    return backbone.startswith(("resnet", "vgg")) and not backbone.startswith("resnet50_half")


class Runs:
    """Data sets and runs by folder and recipe, each made when a test first needs it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def data(self, name: str) -> Path:
        splits = CONTENT[name]["dataset"]
        path = self.root / "data" / folder_of(name)
        if not path.exists():
            write_data(path, folder_of(name), splits.get("train_split", "train"), splits.get("val_split", "val"))
        return path

    def train(self, name: str, *more: Path) -> Path:
        """The run of a teacher's or student's recipe."""
        out = self.root / "runs" / "-".join([name, *(path.stem for path in more)])
        if not out.exists():
            self._run("train", name, out, [*more])
        return out

    def distill(self, method: str, student: str) -> Path:
        """The run of a student's recipe under a method's, from the method's first step on."""
        out = self.root / "runs" / f"{method}-{student.rpartition('/')[2]}"
        at_once = self._overlay(f"{method}-start", {"method": started(CONTENT[method]["method"])})
        teacher = self.train(teacher_of(student))
        self._run("distill", student, out, [RECIPES[method], at_once], f"--teacher={teacher}", "--any_teacher=true")
        return out

    def _run(self, command: str, name: str, out: Path, more: list[Path], *arguments: str) -> None:
        overlay = self._overlay(name, small(CONTENT[name]) | self._without_hub(name))
        configs = [f"--config={path}" for path in (RECIPES[name], *more, overlay)]
        assert main([command, *configs, f"--data={self.data(name)}", f"--out={out}", *arguments]) == 0
        for checkpoint in ("last.pt", "best.safetensors"):
            (out / checkpoint).unlink()  # hundreds of MB for the larger networks

    def _without_hub(self, name: str) -> dict[str, str]:
        """A small config instead of the hub's, of the same family."""
        if CONTENT[name]["model"] != "transformers":
            return {}
        assert CONTENT[name]["backbone"].startswith("ustc-community/dfine-")
        path = self.root / "models" / "dfine"
        if not path.exists():
            CONFIGS["DFineForObjectDetection"]().save_pretrained(path)
        return {"backbone": str(path)}

    def _overlay(self, name: str, content: dict[str, Any]) -> Path:
        path = self.root / "overlays" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path


def started(method: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
    """A method's options without a number of steps to wait."""
    if isinstance(method, list):
        return [{**one, "init_args": one.get("init_args", {}) | {"schedule": {"start_step": 0}}} for one in method]
    return {**method, "init_args": method.get("init_args", {}) | {"schedule": {"start_step": 0}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    root = tmp_path_factory.mktemp("recipes")
    yield Runs(root)
    shutil.rmtree(root)


def losses(run: Path) -> list[dict[str, float]]:
    """The losses of both steps, all finite, followed by an evaluation."""
    steps = [line["losses"] for line in read_log(run, "train")]
    assert len(steps) == 2 and len(list(read_log(run, "val"))) == 1
    assert all(math.isfinite(value) for step in steps for value in step.values())
    return steps


def test_every_recipe_is_of_a_kind_that_is_run_here() -> None:
    assert set(MODELS) | set(METHODS) | set(OVERLAYS) == set(RECIPES)
    assert OVERLAYS == ["demo/start", "voc07/voc0712"]
    assert {folder_of(name) for name in RECIPES} == {folder_of(name) for name in TEACHERS}
    assert len(STUDENTS) >= 8 and len(METHODS) >= 5


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_says_how_to_run_it_and_what_comes_out(name: str) -> None:
    text = " ".join(header(name))
    assert list(commands(name)), "a line with the command, three blanks behind the mark"
    assert "Expected" in text, "the figure to expect"
    assert re.search(r"GPU|CPU|H100", text), "the hardware"
    assert re.search(r"minute|hour|second|day|[Tt]ime", text), "the time"


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_the_header_parse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real parser, beside copies of the folder's recipes, as `eyas recipes copy` makes them."""
    monkeypatch.chdir(tmp_path)
    for other in beside(name, list(RECIPES)):
        Path(RECIPES[other].name).write_text(RECIPES[other].read_text())
    used = set()
    for arguments in commands(name):
        parse(arguments)
        used |= {given for option, given in pairwise(arguments) if option == "--config"}
    assert RECIPES[name].name in used


@pytest.mark.parametrize("name", [slow_if_heavy(name) for name in MODELS])
def test_two_steps_of_training(name: str, runs: Runs) -> None:
    steps = losses(runs.train(name))
    assert all(sum(step.values()) > 0 for step in steps)


@pytest.mark.parametrize("name", OVERLAYS)
def test_two_steps_under_an_overlay(name: str, runs: Runs) -> None:
    assert losses(runs.train(beside(name, STUDENTS)[-1], RECIPES[name]))


@pytest.mark.parametrize(
    ("name", "student"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if is_heavy(teacher_of(pair[1])) else []) for pair in PAIRS],
)
def test_two_steps_of_distilling(name: str, student: str, runs: Runs) -> None:
    check_distilling(name, student, runs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "student"), MORE_PAIRS)
def test_two_steps_of_distilling_the_other_students(name: str, student: str, runs: Runs) -> None:
    check_distilling(name, student, runs)


def check_distilling(name: str, student: str, runs: Runs) -> None:
    """The student's own losses are there, and those of the method beside them."""
    plain = losses(runs.train(student))[0].keys()
    warms_up = any(word in str(CONTENT[name]["method"]) for word in ("auto", "fraction"))
    for step in losses(runs.distill(name, student)):
        assert plain < step.keys()
        assert warms_up or all(step[key] > 0 for key in step.keys() - plain)


def test_recipes_of_the_authors_c4_and_vgg_detectors_have_their_numbers_before_and_after_nms() -> None:
    expected = {"pre_nms_train": 12000, "pre_nms_test": 6000, "proposals_train": 2000, "proposals_test": 300}
    theirs = [name for name in MODELS if name.startswith(("voc07/", "coco/")) and "fpn" not in name]
    assert len(theirs) == 7
    for name in theirs:
        assert CONTENT[name]["options"] | expected == CONTENT[name]["options"], name


def test_the_confidence_loss_is_what_the_authors_have_on_kitti_and_what_the_digits_were_trained_with() -> None:
    """Theirs is 75 / 8 per object, the default. The digits' published runs divided 75 by their 16 images."""
    shuffledets = {name: CONTENT[name] for name in MODELS if CONTENT[name]["model"] == "shuffledet"}
    for name, content in shuffledets.items():
        weight = content["options"].get("object_weight", OBJECT_WEIGHT)
        images = 8 if folder_of(name) == "kitti" else content["dataset"]["batch_size"]
        assert weight * images == 75, name


SCHEDULES = {
    # images per step, learning rate, passes, the passes after which the rate falls; a pass is two epochs
    "voc07/teacher_vgg16": (1, 0.001, 7, [5]),
    "voc07/teacher_resnet101": (1, 0.001, 7, [5]),
    "voc07/student_vgg11": (4, 0.003, 15, [8]),
    "voc07/student_resnet50": (1, 0.003, 10, [5]),
    "coco/teacher_resnet101": (24, 0.01, 10, [4, 9]),
    "coco/student_resnet101_half": (24, 0.01, 10, [4, 9]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_that_the_headers_state(name: str) -> None:
    batch, rate, passes, falls = SCHEDULES[name]
    content = CONTENT[name]
    optim, epochs = content["optim"], content["run"]["epochs"]
    assert (content["dataset"]["batch_size"], optim["lr"], epochs) == (batch, rate, 2 * passes)
    assert [milestone * epochs for milestone in optim["milestones"]] == pytest.approx(
        [2 * fall for fall in falls], abs=0.01
    )


def test_kitti_trains_as_the_authors_do_where_there_is_an_option() -> None:
    for name in ("kitti/teacher", "kitti/student_0.5x", "kitti/student_0.25x"):
        content = CONTENT[name]
        assert content["run"]["epochs"] * math.ceil(3711 / content["dataset"]["batch_size"]) == 40_020
        assert content["optim"]["warmup"] == 0 and content["optim"]["schedule"] == "cosine"
        detector = build("shuffledet", ("car", "pedestrian", "cyclist"), options=content["options"])
        bias, weight = (detector.network.head.get_parameter(name).detach() for name in ("bias", "weight"))
        assert not bias.any() and float(weight.std()) == pytest.approx(1e-4, rel=0.02)


def test_voc_trains_on_difficult_objects_as_the_authors_do() -> None:
    assert all(CONTENT[name]["dataset"]["difficult"] for name in MODELS if folder_of(name) == "voc07")
