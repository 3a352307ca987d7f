"""The table of docs/families.md: a test behind every cell, and a cell for every family."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from libreyolo import LibreYOLO
from PIL import Image
from torch import Tensor, nn

import eyas
from eyas.detectors import BUILDERS, LibreYoloDetector, TransformersDetector, deploy
from eyas.detectors.libreyolo.files import NATIVE_FILE
from eyas.detectors.transformers.families import FAMILIES
from eyas.export.check import raw_differences
from eyas.export.formats import EXPORTERS, ExportedDetector
from eyas.runs.checkpoint import ModelSpec, save_weights
from eyas.types import Detector, Prediction
from helpers import families
from helpers.families import CLASSES, FIRST_LABEL, SHUFFLEDET, SIZE, TORCHVISION, TRANSFORMERS, batch, make, trained
from helpers.tiny import MODEL
from helpers.toys import ToyDetector

ROOT = Path(__file__).parents[2]
YES = "yes"
TOLERANCE = 1e-3
"""That of `eyas export`. With BatchNorm statistics of so few images D-FINE's backbone makes 2e-4 of the last digits."""


def cells() -> dict[tuple[str, str], str]:
    """(family, column) -> what the page's table says."""
    lines = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / "families.md").read_text(), re.MULTILINE)
    header, _, *rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    names = [re.sub(r"\[(.+?)\]\(.+?\)", r"\1", row[0]) for row in rows]
    return {
        (name, column): cell
        for name, row in zip(names, rows, strict=True)
        for column, cell in zip(header[1:], row[1:], strict=True)
    }


class Toy(ToyDetector):
    """A toy for these classes; its loss counts boxes, whatever they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = CLASSES  # type: ignore[assignment]


def two_steps(student: Detector, teacher: Detector) -> None:
    """Two steps of distillation: every loss is finite, the student learns and the teacher does not."""
    assert isinstance(student, nn.Module)
    distiller = eyas.Distiller(student, teacher, eyas.FGFI(weight=1.0)).train()
    before = copy.deepcopy(student.network.state_dict())
    frozen = copy.deepcopy(teacher.network.state_dict())
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    images, targets = batch()
    for _ in range(2):
        losses = distiller(images, targets)
        assert all(loss.isfinite() for loss in losses.values()) and losses["fgfi"] > 0 and len(losses) > 1
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
    after = student.network.state_dict()
    assert any(not after[name].equal(before[name]) for name in after)
    assert all(value.equal(frozen[name]) for name, value in teacher.network.state_dict().items())


def as_teacher(name: str, folder: Path) -> None:
    two_steps(Toy(), make(name))


def as_student(name: str, folder: Path) -> None:
    two_steps(make(name), Toy())


def same(ours: list[Prediction], theirs: list[Prediction]) -> None:
    """Scores that agree to the last digits may change places."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["scores"]) > 3 and a["scores"].std() > 1e-5
        torch.testing.assert_close(b["scores"], a["scores"], atol=5e-4, rtol=0)
        for label in range(len(CLASSES)):
            left, right = (found["boxes"][found["labels"] == label] for found in (a, b))
            left, right = (boxes[boxes.sum(dim=1).argsort()] for boxes in (left, right))
            torch.testing.assert_close(right, left, atol=1e-2, rtol=0)


def by_score(found: Prediction) -> Prediction:
    order = found["scores"].argsort(descending=True)
    return {"boxes": found["boxes"][order], "scores": found["scores"][order], "labels": found["labels"][order]}


def exported_to(runtime: str) -> Callable[[str, Path], None]:
    """By this exporter, with another number of images than the graph was traced with."""
    exporter = EXPORTERS[runtime]

    def check(name: str, folder: Path) -> None:
        detector = trained(name)
        deployed = deploy(detector)
        model = exporter.trace(deployed, SIZE, raw=False, dynamic_size=False)
        images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(4))
        values = {"classes": detector.classes, "resize": {}, "size": SIZE, "raw": False, "parameters": 1, "gflops": 1.0}
        metadata = {f"eyas.{key}": value for key, value in values.items()}
        heads, shipped = (
            exporter.open(exporter.build(model, metadata, "float32", heads=heads)) for heads in (True, False)
        )
        assert max(raw_differences(deployed, heads, [images]).values()) < TOLERANCE
        with torch.no_grad():
            same(detector.predict(images), ExportedDetector(shipped).predict(images))

    return check


def reloaded(name: str, folder: Path) -> None:
    """By the family's own library; it has never seen the adapter."""
    detector = trained(name)
    images = batch()[0]
    with torch.no_grad():
        ours = detector.predict(images)
    if isinstance(detector, TransformersDetector):
        detector.export_native(folder)
        model = transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        pixels = processor(images=list(images), do_resize=False, do_rescale=False, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            theirs = processor.post_process_object_detection(model(pixels), threshold=0.0, target_sizes=[SIZE] * 2)
        same(ours, [by_score(found) for found in theirs])
        return
    if isinstance(detector, LibreYoloDetector):
        images = (images * 255).round() / 255  # the library takes images of bytes
        detector.export_native(folder, {"height": SIZE[0], "width": SIZE[1]})
        model = LibreYOLO(str(folder / NATIVE_FILE), device="cpu")
        assert list(model.names.values()) == list(CLASSES)
        with torch.no_grad():
            same(detector.predict(images), [by_libreyolo(model, image) for image in images])
        return
    torch.save(detector.network.state_dict(), folder / "weights.pt")
    state = torch.load(folder / "weights.pt", weights_only=True)
    if name in TORCHVISION:
        plain = TORCHVISION[name]().eval()
        plain.load_state_dict(state)
        with torch.no_grad():
            theirs = plain(list(images))
        first = FIRST_LABEL.get(name, 0)
        same(ours, [{**found, "labels": found["labels"] - first} for found in theirs])
    elif name == SHUFFLEDET:
        spec = ModelSpec("shuffledet", CLASSES, options=MODEL)
        spec.save(folder)
        save_weights(detector.network, folder / spec.weights)
        with torch.no_grad():
            same(ours, eyas.load(folder).predict(images))
    else:
        page = families.page_of_own()
        network = page["CellNet"](4).eval()
        network.load_state_dict(state)
        with torch.no_grad():
            same(ours, page["predict"](network, images))


def by_libreyolo(model: Any, image: Tensor) -> Prediction:
    """What the library finds in an image in [0, 1], with its own pre- and post-processing."""
    pixels = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    found = model(pixels, conf=0.0, iou=0.6, max_det=20, imgsz=SIZE).boxes
    return {"boxes": found.xyxy, "scores": found.conf, "labels": found.cls.long()}


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "teacher": as_teacher,
    "student": as_student,
    "ONNX": exported_to("onnxruntime"),
    "OpenVINO": exported_to("openvino"),
    "saved, and reloaded by its library": reloaded,
}
SLOW = {(name, column) for name in families.FAMILIES if name != families.OWN for column in ("ONNX", "OpenVINO")}
"""The exporter takes 5 to 30 seconds for each."""


@pytest.mark.parametrize(
    ("family", "column"), [pytest.param(*cell, marks=pytest.mark.slow if cell in SLOW else ()) for cell in cells()]
)
def test_cell(family: str, column: str, tmp_path: Path) -> None:
    assert cells()[family, column] == YES
    CHECKS[column](family, tmp_path)


def test_every_family_has_every_cell() -> None:
    assert set(cells()) == {(family, column) for family in families.FAMILIES for column in CHECKS}
    assert {family.partition(" ")[0] for family in TRANSFORMERS.values()} == set(FAMILIES)
    named = (*families.TORCHVISION, *families.LIBREYOLO, families.SHUFFLEDET)
    rows = {"".join(filter(str.isalnum, name.lower())) for name in named}
    missing = [model for model in BUILDERS if model != "transformers" and model.replace("_", "") not in rows]
    assert not missing, f"give {missing} a small detector in tests/helpers/families.py and a row in docs/families.md"


def test_a_wrong_export_would_be_seen() -> None:
    found: Prediction = {"boxes": torch.rand(4, 4), "scores": torch.rand(4), "labels": torch.tensor([0, 1, 2, 0])}
    same([found], [found])
    for key, other in (("scores", found["scores"] + 1e-3), ("boxes", found["boxes"] + 1), ("labels", torch.zeros(4))):
        with pytest.raises(AssertionError):
            same([found], [{**found, key: other}])  # type: ignore[misc]
