"""What `eyas demo` compares: on which images, under which teacher, and with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from eyas.commands.compare import resolve_command
from eyas.commands.parsing import run_recipe
from eyas.commands.train import train
from eyas.comparison.arms import ArmOptions
from eyas.comparison.jobs import resume_options
from eyas.comparison.plan import Plan, make_plan
from eyas.evaluation import EvaluationResult
from eyas.runs.recipes import shipped_recipes
from eyas.types import EyasError

ASSETS = Path(str(resources.files("eyas"))) / "assets"
BUNDLED_TEACHER = ASSETS / "demo_teacher"
STARTING_POINT = ASSETS / "demo_start"
"""The student that every arm starts from: it finds digits, and cannot read them."""
CONFIG = ASSETS / "demo.yaml"
"""Student and arms, as a config of `eyas compare`."""
DISTILLED = "distilled"
"""The arm that has the teacher, in the config."""


@dataclass(frozen=True)
class DemoTask:
    """A comparison for the demo to make.

    Attributes:
        title: of its table.
        data: folder of the data set, whose images have the size of the network's input.
        teacher: folder of the trained teacher.
        options: of every arm, over the recipe of the student.
        about: further content of comparison.json.
    """

    title: str
    data: Path
    teacher: Path
    options: Mapping[str, Any]
    about: Mapping[str, object]

    def plan(self, out: Path, seeds: Sequence[int]) -> Plan:
        """The plan of the comparison: all arms start from the same weights, and the teacher's features are cached."""
        for folder in (self.teacher, STARTING_POINT):
            if not (folder / "model.json").is_file():
                raise EyasError(f"{folder}: this folder of the package is missing; install Eyas again")
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        student = [config["student"], {"weights": str(STARTING_POINT / "model.safetensors"), **self.options}]
        cache = {DISTILLED: {"cache": str(out / "cache")}}
        arms = {name: ArmOptions([arm, cache.get(name, {})]) for name, arm in config["arms"].items()}
        return make_plan(
            self.data, str(self.teacher), ArmOptions(student), arms, out=out, seeds=seeds, resolve=resolve_command
        )


def train_teacher(data: Path, folder: Path, options: Mapping[str, object]) -> EvaluationResult:
    """Train a teacher by the recipe, or go on where its training stopped."""
    given = {"data": data, "out": folder, **options, **resume_options(folder)}
    result: EvaluationResult = run_recipe(train, shipped_recipes()["demo/teacher"], given)
    return result
