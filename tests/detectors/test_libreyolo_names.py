"""Every name of libreyolo that Eyas uses: a version that renames one fails here, and the message says which."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from libreyolo.models.yolo9 import loss as yolo9_loss
from torch import nn

from eyas.detectors.libreyolo.adapter import FAMILIES
from eyas.detectors.libreyolo.names import MODULES, VERSIONS, of_libreyolo

ROOT = Path(__file__).parents[2]
YOLOV9 = ("config", "nc", "backbone", "neck", "head", "disable_aux")
YOLOV9_HEAD = ("cv2", "cv3", "nc", "reg_max", "_build_class_towers", "_init_bias")
YOLOV9_LOSS = ("device", "cls_loss", "box_loss", "update_anchors")
YOLOX = ("config", "nb_classes", "backbone", "head", "init_weights")
YOLOX_HEAD = (
    *("stems", "cls_convs", "reg_convs", "cls_preds", "reg_preds", "obj_preds", "num_classes"),
    *("use_l1", "get_losses", "iou_loss", "bcewithlog_loss"),
)
LIBRARY_LOSS = {"num_classes": 3, "reg_max": 16, "strides": [8, 16, 32], "image_size": None, "device": "cpu"}
PARAMETERS = {
    "get_losses": ["imgs", "x_shifts", "y_shifts", "expanded_strides", "labels", "outputs", "origin_preds", "dtype"],
    "BCELoss": ["predicts_cls", "targets_cls", "cls_norm"],
    "BoxLoss": ["predicts_bbox", "targets_bbox", "valid_masks", "box_norm", "cls_norm"],
    "wrap_libreyolo_checkpoint": ["state_dict", "model_family", "size", "task", "nc", "names", "imgsz"],
}
"""Function -> the parameters whose order, or names, Eyas relies on."""


def made(name: str) -> Any:
    """One of each."""
    if name == "YOLO9Loss":
        return of_libreyolo(name)(**LIBRARY_LOSS)
    smallest = {"LibreYOLO9Model": "t", "LibreYOLOXModel": "n"}[name]
    return of_libreyolo(name)(config=smallest, nb_classes=3)


def lacking(owner: object, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(owner, name)]


def told(what: str, names: list[str]) -> str:
    version = metadata.version("libreyolo")
    return f"libreyolo {version} has no {', '.join(names)} in {what}: adapt src/eyas/detectors/libreyolo, or the range"


@pytest.mark.parametrize("name", MODULES)
def test_every_import_is_there(name: str) -> None:
    assert callable(of_libreyolo(name))


@pytest.mark.parametrize(
    ("name", "names", "head_names"),
    [("LibreYOLO9Model", YOLOV9, YOLOV9_HEAD), ("LibreYOLOXModel", YOLOX, YOLOX_HEAD), ("YOLO9Loss", YOLOV9_LOSS, ())],
)
def test_every_attribute_is_there(name: str, names: tuple[str, ...], head_names: tuple[str, ...]) -> None:
    owner = made(name)
    assert not lacking(owner, names), told(name, lacking(owner, names))
    head = getattr(owner, "head", None)
    assert not lacking(head, head_names), told(f"the head of {name}", lacking(head, head_names))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_and_the_levels_have_their_names(name: str) -> None:
    _, head, wrapper = FAMILIES[name]
    assert type(made(name).head).__name__ == head, told(name, [head])
    said = inspect.getsource(of_libreyolo(wrapper).get_distill_config)
    read = set(re.findall(r"self\.(\w+)", said))
    assert read == {"size"}, f"{wrapper}.get_distill_config also reads {read - {'size'}}, which Eyas does not give it"


def test_losses_are_called_as_they_are_defined() -> None:
    functions = {
        "get_losses": made("LibreYOLOXModel").head.get_losses,
        "BCELoss": yolo9_loss.BCELoss().forward,
        "BoxLoss": yolo9_loss.BoxLoss().forward,
        "wrap_libreyolo_checkpoint": of_libreyolo("wrap_libreyolo_checkpoint"),
    }
    for name, function in functions.items():
        found = list(inspect.signature(function).parameters)
        assert found[: len(PARAMETERS[name])] == PARAMETERS[name], f"{name} now takes {', '.join(found)}"
    loss = made("YOLO9Loss")
    assert isinstance(loss.cls_loss, nn.Module) and isinstance(loss.box_loss, nn.Module), "hooks need modules"


def test_a_missing_name_is_told() -> None:
    assert lacking(made("YOLO9Loss"), ("device", "gone")) == ["gone"]
    assert re.match(r"libreyolo 1\.6\.\d+ has no gone in YOLO9Loss: adapt", told("YOLO9Loss", ["gone"]))


def test_the_range_is_that_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["libreyolo"] == [f"libreyolo{VERSIONS}"]
