"""The tiny project in which the commands of the documentation run: the one place that says what stands for what.

A command is run as the page has it, but for three things, all below: names that need a network (`SUBSTITUTES`), options
that end a training after two steps (`BUDGETS`, `overlay`), and inputs that the page takes for granted (`PROVIDED`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from PIL import Image
from torchvision.models import get_model
from transformers import AutoModelForObjectDetection

from eyas.__main__ import main
from eyas.comparison.arms import ArmOptions, resolve_arms
from eyas.data.digits import DigitsSpec, write_digits
from eyas.detectors.libreyolo.files import NATIVE_FILE
from eyas.runs.recipes import shipped_recipes
from helpers.recipe_data import small, write_data
from helpers.tiny import CLASSES, options, square_image, write_squares
from helpers.tiny_transformers import CONFIGS
from helpers.tiny_yolo import tiny_yolo

ROOT = Path(__file__).parents[2]

SUBSTITUTES = {
    "ResNet18_Weights.DEFAULT": "resnet18.pt",
    "ResNet50_Weights.DEFAULT": "resnet50.pt",
    "features:timm:vit_small_patch14_dinov2.lvd142m": "features:timm:test_vit@test_vit.pt",
    "PekingU/rtdetr_r50vd": "models/rtdetr",
    "PekingU/rtdetr_r18vd": "models/rtdetr",
    "480": "64",
    "640": "64",
    "800": "96",
}
"""Word of a command -> its substitute: a local file for a download, a smaller image size."""

TRAINING = {"dataset.batch_size": 2, "dataset.workers": 0, "run.epochs": 1, "run.device": "cpu", "run.threads": 1}
BUDGETS: dict[str, dict[str, Any]] = {
    "train": TRAINING,
    "distill": TRAINING | {"any_teacher": True},
    "cache": TRAINING | {"any_teacher": True},
    "evaluate": {"workers": 0, "device": "cpu"},
    "predict": {"device": "cpu"},
    "export": {"runs": 1},
    "inspect": {"workers": 0, "device": "cpu"},
    "report": {"workers": 0, "device": "cpu"},
    "doctor": {"device": "cpu"},
}
"""Options by command, which the page's own come after and override. The teacher of two steps scores near zero."""


def cells(path: Path) -> None:
    write_squares(path, train=4, val=2)


def digits(path: Path) -> None:
    write_digits(path, DigitsSpec(train_images=4, val_images=2))


def data_set(folder: str) -> Callable[[Path], None]:
    """Data of the layout that the recipes of a folder take."""

    def make(path: Path) -> None:
        write_data(path, folder, "train", "val")

    return make


def photos(path: Path) -> None:
    path.mkdir()
    for seed in range(2):
        Image.fromarray(square_image(seed)[0]).save(path / f"{seed}.png")


def rtdetr(path: Path) -> None:
    config = CONFIGS["RTDetrForObjectDetection"]()
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: label for label, name in enumerate(CLASSES)}
    AutoModelForObjectDetection.from_config(config).save_pretrained(path)


def libreyolo(path: Path) -> None:
    """A checkpoint of libreyolo."""
    folder = path.with_suffix("")
    folder.mkdir()
    tiny_yolo("yolov9", CLASSES).export_native(folder, {"longer": 64})
    (folder / NATIVE_FILE).rename(path)


def backbone(path: Path) -> None:
    torch.save(get_model(path.stem).state_dict(), path)


def vision_transformer(path: Path) -> None:
    """The weights of a source of features, which its name has behind an @."""
    torch.save(timm.create_model("test_vit").state_dict(), str(path).partition("@")[2])


def run_of(recipe: str, data: str) -> Callable[[Path], None]:
    """A run of a recipe, two steps."""

    def make(path: Path) -> None:
        config = shipped_recipes()[recipe]
        more = write_overlay([str(config)])
        done = main(["train", f"--config={config}", f"--config={more}", f"--data={provide(data)}", f"--out={path}"])
        assert done == 0

    return make


def retinanet(path: Path) -> None:
    """What a page calls a teacher of the cells."""
    train("train", path, "--model=retinanet", "--backbone=resnet18")


def small_student(path: Path) -> None:
    train("distill", path, f"--teacher={provide('runs/small_teacher')}", "--any_teacher=true", *options(run_epochs=1))


def small_baseline(path: Path) -> None:
    train("train", path, *options(run_epochs=1))


def compared(path: Path) -> None:
    """What `eyas compare` leaves, less its tables."""
    small_baseline(path / "baseline-0")
    small_student(path / "fgfi-0")


def train(command: str, out: Path, *arguments: str) -> None:
    assert main([command, *as_options(TRAINING), f"--data={provide('cells')}", f"--out={out}", *arguments]) == 0


PROVIDED: dict[str, Callable[[Path], None]] = {
    "bccd": data_set("bccd"),
    "best.pt": libreyolo,
    "cells": cells,
    "features:timm:test_vit@test_vit.pt": vision_transformer,
    "src": lambda path: path.symlink_to(ROOT / "src"),
    "KITTI": data_set("kitti"),
    "models/rtdetr": rtdetr,
    "photos": photos,
    "resnet18.pt": backbone,
    "resnet50.pt": backbone,
    "results": lambda path: path.symlink_to(ROOT / "results"),
    "runs/baseline": small_baseline,
    "runs/bccd_two_stage/teacher": run_of("bccd_two_stage/teacher", "bccd"),
    "runs/compare": compared,
    "runs/demo/data": digits,
    "runs/digits/data": digits,
    "runs/kitti/teacher": run_of("kitti/teacher", "KITTI"),
    "runs/small_teacher": small_baseline,
    "runs/student": small_student,
    "runs/teacher": retinanet,
}
"""What pages take for granted, made in the folder of the page when a command first names it."""


def provide(name: str) -> Path:
    """What stands for a name in the current folder, made if it is missing."""
    path = Path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        PROVIDED[name](path)
    return path


def supply(arguments: Sequence[str]) -> None:
    """Make what the words of a command name, but for what it writes itself."""
    for before, word in pairwise(["", *arguments]):
        whole = word.rstrip("/")
        known = next((name for name in PROVIDED if whole == name or whole.startswith(f"{name}/")), None)
        if known is not None and before != "--out":
            provide(known)


def ready(arguments: Sequence[str]) -> list[str]:
    """The command as it is run: its own words in their order, after the budget, before the overlay of its recipes."""
    command, *words = (SUBSTITUTES.get(word, word) for word in arguments)
    configs = [after for word, after in pairwise(words) if word == "--config"]
    if not configs:
        return [command, *as_options(BUDGETS.get(command, {})), *words]
    if command == "compare":
        return [command, *words, f"--config={compare_overlay(configs)}"]
    weak = ["--any_teacher=true"] if BUDGETS[command].get("any_teacher") else []
    return [command, *words, *weak, f"--config={write_overlay(configs)}"]


def as_options(values: dict[str, Any]) -> list[str]:
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]


def write_overlay(configs: Sequence[str]) -> Path:
    """A config that comes last and makes the training of recipes two steps."""
    merged: dict[str, Any] = {}
    for config in configs:
        merged |= yaml.safe_load(Path(config).read_text())
    return _written("two_steps.yaml", small(merged))


def compare_overlay(configs: Sequence[str]) -> Path:
    """One seed, students of two steps, and short schedules where there are any."""
    config = yaml.safe_load(Path(configs[-1]).read_text())
    layers = config["student"] if isinstance(config["student"], list) else [config["student"]]
    student = yaml.safe_load(shipped_recipes()[layers[0]].read_text())
    supply([config["data"], config["teacher"]])
    # The teacher of two steps will do for the arms that distil.
    plan = resolve_arms(ArmOptions(config["student"]), {name: ArmOptions(arm) for name, arm in config["arms"].items()})
    arms = {
        name: [*(arm if isinstance(arm, list) else [arm]), *([{"any_teacher": True}] if "method" in plan[name] else [])]
        for name, arm in config["arms"].items()
    }
    short = {"epochs": [1, 2]} if "epochs" in config else {}
    return _written("one_seed.yaml", {"student": [*layers, small(student)], "seeds": [0], "arms": arms, **short})


def _written(name: str, content: dict[str, Any]) -> Path:
    path = Path(name)
    path.write_text(yaml.safe_dump(content))
    return path
