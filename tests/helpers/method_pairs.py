"""Tiny pairs of detectors on which every method is tested: each on the first pair that it applies to."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from eyas.commands.methods import method_class
from eyas.detectors import TransformersDetector, build
from eyas.distillation.trials import noise_batch, try_methods
from eyas.types import Detector
from helpers.tiny import CLASSES, MODEL
from helpers.tiny_transformers import CONFIGS
from helpers.tiny_yolo import tiny_yolo
from helpers.toys import seeded

SIZE = (64, 96)
NARROW: dict[str, Any] = {"backbone": "mobilenet_v3_small", "options": {"fpn_channels": 16}}
BUILT: dict[str, dict[str, Any]] = {
    "shuffledet": {"options": MODEL},
    # Without a convolution on the map of one cell, whose bfloat16 gradient is not even finite in torch on some CPUs.
    "retinanet": {**NARROW, "options": {"fpn_channels": 16, "head_convs": 4, "top": "pool"}},
    "fcos": {**NARROW, "options": {"fpn_channels": 64, "head_convs": 2}},
    "faster_rcnn": NARROW,
    "yolov9": {"options": {"size": "t"}},
}
"""Model -> what `eyas.build` takes beside its name and classes."""
OF_TRANSFORMERS = ("DFineForObjectDetection", "ConditionalDetrForObjectDetection", "DeformableDetrForObjectDetection")
PAIRS = ("toy", *BUILT, *OF_TRANSFORMERS)
"""The cheapest first."""


def make(name: str, seed: int) -> Detector:
    """A detector of a pair in training mode; its weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "toy":
            return seeded(seed, 4 + 2 * seed, norm=True).train()
        if name == "yolov9":
            return tiny_yolo(name, CLASSES, seed)
        if name in BUILT:
            return build(name, CLASSES, **BUILT[name])
        from transformers import AutoModelForObjectDetection

        return TransformersDetector(AutoModelForObjectDetection.from_config(config_of(name))).train()


def config_of(name: str) -> Any:
    """The configuration of a detector of transformers, with the classes of the tiny data."""
    config = CONFIGS[name]()
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {label: index for index, label in enumerate(CLASSES)}
    return config


@cache
def _pair(name: str) -> tuple[Detector, Detector]:
    return make(name, 0), make(name, 1)


@cache
def pair_of(method: str) -> str:
    """The first pair that a method applies to. Raises AssertionError with every reason where there is none."""
    reasons = []
    for name in PAIRS:
        trials = try_methods(*_pair(name), {method: method_class(method)}, noise_batch(SIZE), timed=False)
        if trials[method].reason is None:
            return name
        reasons.append(f"{name}: {trials[method].reason}")
    raise AssertionError("\n".join([f"no pair of helpers.method_pairs suits {method}; add one", *reasons]))


def on_command_line(name: str) -> str:
    """The pair that stands for one where detectors are named by options."""
    return "shuffledet" if name == "toy" else name


def student_arguments(name: str, folder: Path) -> list[str]:
    """The options of a pair's student; a detector of transformers is written below ``folder`` first."""
    if name in BUILT:
        backbone = BUILT[name].get("backbone")
        chosen = [f"--backbone={backbone}"] if backbone else []
        return [f"--model={name}", *chosen, f"--options={json.dumps(BUILT[name]['options'])}"]
    made = make(name, 0)
    assert isinstance(made, TransformersDetector)
    made.network.save_pretrained(folder / name)
    return ["--model=transformers", f"--backbone={folder / name}"]


def teacher_argument(name: str) -> str:
    """The option that names a pair's teacher."""
    return f"--teacher=helpers.method_pairs:teacher_{name}"


def __getattr__(name: str) -> Any:
    """``teacher_NAME`` makes the teacher of a pair."""
    kind, _, pair = name.partition("_")
    if kind == "teacher" and pair in PAIRS:
        return lambda: make(pair, 1)
    raise AttributeError(name)
