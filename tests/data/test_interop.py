"""Data sets of supervision and torchvision against the COCO reader, and predictions to supervision and back."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import CocoDetection

import eyas
from eyas.data import DataSource, eval_transform, from_coco_detection, from_supervision, loader, read, to_supervision
from eyas.data.dataset import ground_truth
from eyas.data.options import Resize
from eyas.types import EyasError, Prediction
from helpers.drawn import HEIGHT, THINGS, WIDTH, assert_drawn, draw

# supervision says on import that it does without OpenCV, where that is not installed.
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")

COCO = {
    "images": [
        {"id": 70, "file_name": "b.png", "width": 20, "height": 10},
        {"id": 5, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 6, "file_name": "empty.png", "width": 30, "height": 40},
    ],
    "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "emu"}],
    "annotations": [
        {"id": 1, "image_id": 70, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 7, "iscrowd": 0},
        {"id": 2, "image_id": 70, "category_id": 3, "bbox": [5.5, 0, 4, 8], "area": 30, "iscrowd": 0},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 20, 10], "area": 200, "iscrowd": 1},
        {"id": 4, "image_id": 5, "category_id": 90, "bbox": [2, 2, 2, 2], "area": 4, "iscrowd": 0},
    ],
}
EXPECTED = {  # name -> boxes, labels (emu 0, zebra 1: by category id), areas, ignore regions, their labels
    "b.png": ([[1, 2, 4, 6], [5.5, 0, 9.5, 8]], [1, 0], [7, 30], [], []),
    "a.png": ([[2, 2, 4, 4]], [1], [4], [[0, 0, 20, 10]], [0]),
    "empty.png": ([], [], None, [], []),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    for image in COCO["images"]:
        Image.new("RGB", (image["width"], image["height"]), (255, 0, 0)).save(folder / image["file_name"])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(COCO))
    return tmp_path


def torchvision_set(root: Path) -> CocoDetection:
    with contextlib.redirect_stdout(io.StringIO()):
        return CocoDetection(root / "images" / "train", str(root / "annotations" / "instances_train.json"))


def supervision_set(root: Path) -> Any:
    supervision = pytest.importorskip("supervision")
    return supervision.DetectionDataset.from_coco(
        str(root / "images" / "train"), str(root / "annotations" / "instances_train.json")
    )


def check(source: DataSource) -> None:
    assert source.classes == ("emu", "zebra") and source.problems == ()
    assert {record.path.name for record in source.records} == EXPECTED.keys()
    for record in source.records:
        boxes, labels, areas, ignore, ignore_labels = EXPECTED[record.path.name]
        assert np.array_equal(record.boxes, np.array(boxes, dtype=np.float32).reshape(-1, 4))
        assert record.labels.tolist() == labels and record.labels.dtype == np.int64
        assert np.array_equal(record.ignore, np.array(ignore, dtype=np.float32).reshape(-1, 4))
        assert record.ignore_labels.tolist() == ignore_labels
        assert (record.attributes["area"].tolist() if areas else dict(record.attributes)) == (areas or {})
    sizes = {record.path.name: (record.width, record.height) for record in source.records}
    assert sizes == {"a.png": (20, 10), "b.png": (20, 10), "empty.png": (30, 40)}


def labelme(folder: Path) -> None:
    """A file for each image: two corners of a rectangle, in any order."""
    for number in range(6):
        shapes = [
            {"label": name, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle", "group_id": None}
            for name, (x1, y1, x2, y2) in THINGS[number]
        ]
        content = {"imagePath": f"{number}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": shapes}
        (folder / f"{number}.json").write_text(json.dumps(content))


def createml(folder: Path) -> None:
    """One file: the centre and the size of each box, in pixels."""
    content = []
    for number in range(6):
        boxes = [
            {
                "label": name,
                "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1},
            }
            for name, (x1, y1, x2, y2) in THINGS[number]
        ]
        content.append({"image": f"{number}.png", "annotations": boxes})
    (folder / "parts.createml.json").write_text(json.dumps(content))


def test_labelme_and_createml_open_through_supervision(tmp_path):
    """As docs/data.md says. The reader of folders names this way out."""
    supervision = pytest.importorskip("supervision")
    for make in (labelme, createml):
        folder = tmp_path / make.__name__
        for number in range(6):
            draw(folder / f"{number}.png", number)
        make(folder)
        with pytest.raises(EyasError, match=r"open it by supervision and give that to eyas\.from_supervision"):
            read(folder, "all")
    one = supervision.DetectionDataset.from_labelme(str(tmp_path / "labelme"), str(tmp_path / "labelme"))
    file = tmp_path / "createml" / "parts.createml.json"
    other = supervision.DetectionDataset.from_createml(str(tmp_path / "createml"), str(file))
    for dataset in (one, other):
        source = from_supervision(dataset)
        assert sorted(source.classes) == ["bolt", "nut"]
        assert_drawn(source, 6, 7)


def test_both_are_what_the_reader_makes_of_the_same_files(root: Path) -> None:
    check(read(root, "train"))
    check(from_coco_detection(torchvision_set(root)))
    check(from_supervision(supervision_set(root)))


def test_torchvision_keeps_its_order_and_ids(root: Path) -> None:
    data = torchvision_set(root)
    source = from_coco_detection(data, "val")
    assert [int(record.image_id) for record in source.records] == data.ids == [5, 6, 70]
    assert (source.format, source.split, source.root) == ("coco", "val", root / "images" / "train")


def test_batches_of_both(root: Path) -> None:
    for source in (from_coco_detection(torchvision_set(root)), from_supervision(supervision_set(root))):
        batches = loader(source, eval_transform(Resize(10, 20)), batch_size=3, shuffle=False, workers=0, seed=0)
        ((images, targets),) = list(batches)
        assert images.shape == (3, 3, 10, 20)
        assert bool((images[:, 0] == 255).all()) and not images[:, 1:].any()
        assert sorted(len(target["boxes"]) for target in targets) == [0, 1, 2]


def test_what_torchvision_s_is_not(root: Path) -> None:
    data = torchvision_set(root)
    with pytest.raises(EyasError, match=r"not a Subset; give the data set itself"):
        from_coco_detection(Subset(data, [0]))
    (root / "images" / "train" / "a.png").unlink()
    with pytest.raises(EyasError, match=r"a\.png is not in"):
        from_coco_detection(data)


def test_supervision_of_other_formats_has_areas_of_boxes(root: Path) -> None:
    """No crowd and no area in its data: nothing is ignored, and the area is width times height."""
    supervision = pytest.importorskip("supervision")
    paths = [str(root / "images" / "train" / name) for name in ("b.png", "empty.png")]
    found = supervision.Detections(xyxy=np.array([[1.0, 2, 4, 6], [15, 0, 25, 10]]), class_id=np.array([2, 0]))
    data = supervision.DetectionDataset(
        ["a", "b", "c"], paths, {paths[0]: found, paths[1]: supervision.Detections.empty()}
    )
    source = from_supervision(data)
    first, second = source.records
    assert (source.classes, first.image_id) == (("a", "b", "c"), "b.png")
    assert first.labels.tolist() == [2, 0] and len(first.ignore) == 0 and len(second.boxes) == 0
    assert first.attributes["area"].tolist() == [12, 100]
    assert first.boxes.tolist() == [[1, 2, 4, 6], [15, 0, 20, 10]], "clipped to the image, and said"
    assert [str(problem) for problem in source.problems] == [
        f"{paths[0]}: box 1 (15, 0, 25, 10) leaves the 20x10 image; clipped"
    ]


def test_supervision_data_that_cannot_be_used(root: Path) -> None:
    supervision = pytest.importorskip("supervision")
    path = str(root / "images" / "train" / "b.png")
    boxes = supervision.Detections(xyxy=np.array([[1.0, 2, 4, 6]]))
    with pytest.raises(EyasError, match=r"b\.png: its 1 boxes have no class_id"):
        from_supervision(supervision.DetectionDataset(["a"], [path], {path: boxes}))
    none = supervision.Detections.empty()
    with pytest.raises(EyasError, match="memory: no such image file; save the images"):
        from_supervision(supervision.DetectionDataset(["a"], ["memory"], {"memory": none}))
    with pytest.raises(EyasError, match="has no images"):
        from_supervision(supervision.DetectionDataset(["a"], [], {}))
    with pytest.raises(EyasError, match=r"takes a supervision\.DetectionDataset, not a CocoDetection"):
        from_supervision(torchvision_set(root))  # type: ignore[arg-type]


# Predictions ---------------------------------------------------------------------------------------------------------


def prediction(count: int) -> Prediction:
    corners = torch.arange(count * 2, dtype=torch.float32).reshape(-1, 2)
    boxes = torch.cat((corners, corners + 5.5), dim=1)
    return {"boxes": boxes, "scores": torch.linspace(0.9, 0.1, count), "labels": torch.arange(count) % 2}


@pytest.mark.parametrize("count", [0, 3])
def test_predictions_there_and_back(count: int) -> None:
    pytest.importorskip("supervision")
    made = prediction(count)
    found = eyas.to_supervision(made, ("emu", "zebra"))
    assert len(found) == count and found.xyxy.shape == (count, 4) and found.xyxy.dtype == np.float32
    assert torch.equal(torch.from_numpy(found.xyxy), made["boxes"])
    assert torch.equal(torch.from_numpy(found.confidence), made["scores"])
    assert torch.equal(torch.from_numpy(found.class_id), made["labels"])
    assert list(found.data["class_name"]) == ["emu", "zebra", "emu"][:count]
    assert "class_name" not in to_supervision(made).data


def test_supervision_counts_a_perfect_prediction_as_perfect(root: Path) -> None:
    """Its own metric, over its own data set, of predictions that are the truth as Eyas reads it."""
    data = supervision_set(root)
    from supervision.metrics import MeanAveragePrecision

    metric = MeanAveragePrecision()
    for record in from_supervision(data).records:
        truth = data.annotations[str(record.path)]
        objects = truth[truth.data["iscrowd"] == 0] if len(truth) else truth
        ones = torch.ones(len(record.labels))
        found = ground_truth(record)
        metric.update(to_supervision({"boxes": found["boxes"], "scores": ones, "labels": found["labels"]}), objects)
    assert metric.compute().map50_95 == pytest.approx(1)


def test_a_label_without_a_name() -> None:
    pytest.importorskip("supervision")
    with pytest.raises(EyasError, match="outside the 1 classes"):
        to_supervision(prediction(2), ("emu",))


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[supervision\]'"):
        to_supervision(prediction(1))
    with pytest.raises(EyasError, match=r"pip install 'eyas\[supervision\]'"):
        from_supervision(object())  # type: ignore[arg-type]
