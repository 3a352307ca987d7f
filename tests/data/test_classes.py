"""Classes that are chosen, taken together or left out, in every format; one JSON file as a data set; labels drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.data import SplitOptions, read, read_part, read_splits
from eyas.data.formats.classes import chosen, known
from eyas.runs.config import flat_options
from eyas.types import EyasError
from helpers.drawn import THINGS, coco, draw, voc, yolo

NUMBERS = range(6)
BOLTS, NUTS = (sum(name == wanted for things in THINGS for name, _ in things) for wanted in ("bolt", "nut"))
PARTS = {"part": ["bolt", "nut"]}


def coco_folder(root: Path) -> Path:
    content = coco({number: draw(root / "images" / f"img{number}.png", number).name for number in NUMBERS})
    (root / "train.json").write_text(json.dumps(content))
    return root


def voc_folder(root: Path) -> Path:
    for number in NUMBERS:
        (root / f"img{number}.xml").write_text(voc(number, draw(root / f"img{number}.png", number).name))
    return root


def yolo_folder(root: Path) -> Path:
    for number in NUMBERS:
        draw(root / f"img{number}.png", number)
        (root / f"img{number}.txt").write_text(yolo(number))
    (root / "classes.txt").write_text("bolt\nnut\n")
    return root


def kitti_folder(root: Path) -> Path:
    for place in ("image_2", "label_2"):
        (root / place).mkdir()
    for number in NUMBERS:
        draw(root / f"image_2/{number:06}.png", number)
        lines = [
            f"{name} 0 0 0 {' '.join(map(str, box))} -1 -1 -1 -1000 -1000 -1000 -10\n"
            for name, box in THINGS[number % len(THINGS)]
        ]
        (root / f"label_2/{number:06}.txt").write_text("".join(lines))
    return root


FOLDERS = [coco_folder, voc_folder, yolo_folder, kitti_folder]


def split_of(root: Path) -> str:
    return "train" if (root / "train.json").exists() else "all"


def counts(source) -> list[int]:
    labels = [label for record in source.records for label in record.labels.tolist()]
    return [labels.count(index) for index in range(len(source.classes))]


@pytest.mark.parametrize("make", FOLDERS)
def test_a_list_gives_the_order_and_a_subset(tmp_path, make):
    root = make(tmp_path)
    name = split_of(root)
    both = read(root, name, classes=["nut", "bolt"])
    assert (both.classes, counts(both), both.warnings) == (("nut", "bolt"), [NUTS, BOLTS], ())
    nuts = read(root, name, classes=["nut"])
    assert (nuts.classes, counts(nuts), len(nuts.records)) == (("nut",), [NUTS], 6)
    assert not any(len(record.ignore) for record in nuts.records)
    (warning,) = nuts.warnings
    assert warning == (
        f"split {name}: objects of classes that are not among the chosen ones are background: bolt ({BOLTS})"
    )


@pytest.mark.parametrize("make", FOLDERS)
def test_classes_are_taken_together(tmp_path, make):
    source = read(make(tmp_path), split_of(tmp_path), classes=PARTS)
    assert (source.classes, counts(source), source.warnings) == (("part",), [NUTS + BOLTS], ())
    assert source.category_ids in ((), (1,))


@pytest.mark.parametrize("make", FOLDERS)
def test_both_parts_have_the_chosen_classes(tmp_path, make):
    train, val = read_splits(make(tmp_path), SplitOptions(classes=PARTS))
    assert train.classes == val.classes == ("part",)
    assert counts(train)[0] + counts(val)[0] == NUTS + BOLTS
    part = read_part(tmp_path, "val", SplitOptions(classes=PARTS), ["bolt"])  # what is chosen counts
    assert (part.classes, counts(part)) == (val.classes, counts(val))


@pytest.mark.parametrize("make", FOLDERS)
def test_a_misspelt_class_is_refused_where_others_are_left_out(tmp_path, make):
    make(tmp_path)
    with pytest.raises(EyasError, match=r"no object of class blot in split .*, which has others: bolt; correct --data"):
        read_splits(tmp_path, SplitOptions(classes=["nut", "blot"]))


def test_crowds_of_classes_that_are_left_out_are_left_out(tmp_path):
    root = coco_folder(tmp_path)
    content = json.loads((root / "train.json").read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = int(entry["category_id"] == 1)
    (root / "train.json").write_text(json.dumps(content))
    source = read(root, "train", classes=["nut"])
    assert counts(source) == [NUTS] and not any(len(record.ignore) for record in source.records)


def test_kitti_neighbours_are_objects_where_they_are_chosen(tmp_path):
    root = kitti_folder(tmp_path)
    line = "0 0 0 1 1 20 20 -1 -1 -1 -1000 -1000 -1000 -10\n"
    for number, kinds in enumerate((["Van", "Car"], ["Truck"], ["Car"], ["Van"], ["Car"], ["Car"])):
        (root / f"label_2/{number:06}.txt").write_text("".join(f"{kind} {line}" for kind in kinds))
    together = read(root, "all", classes={"vehicle": ["car", "van"]})
    assert counts(together) == [6] and "chosen ones are background: Truck (1)" in "".join(together.warnings)
    cars = read(root, "all", classes=["car"])
    assert counts(cars) == [4] and sum(len(record.ignore) for record in cars.records) == 2


@pytest.mark.parametrize(
    "choice", [[], ["a", "a"], {}, {"a": []}, {"a": ["b"], "c": ["b"]}, {"a": ["b", "b"]}, {"a": "bc"}, {"a": None}]
)
def test_what_is_no_choice_is_refused(choice):
    with pytest.raises(EyasError, match="the classes"):
        chosen(choice)


def test_known_classes_refuse_others():
    assert known(["a", "b"]).label("b", "x") == 1
    with pytest.raises(EyasError, match=r"x: unknown class 'c'; the classes are a, b\. .*--dataset\.classes"):
        known(["a", "b"]).label("c", "x")


@pytest.mark.parametrize("classes", [None, ["b", "a"], {"v.1": ["a", "b"], "c": ["c"]}])
def test_a_run_config_says_which_classes_were_chosen(classes):
    from eyas.runs.results import recorded_splits

    options = flat_options({"dataset": {"classes": classes, "val_seed": 3}})
    assert recorded_splits(options) == SplitOptions(classes=classes, val_seed=3)


def test_the_command_takes_classes_together(tmp_path, capsys):
    yolo_folder(tmp_path)
    assert main(["data", str(tmp_path), "--classes", "{part: [bolt, nut]}"]) == 0
    assert "objects of 1 classes" in capsys.readouterr().out
    assert main(["data", str(tmp_path), "--classes", "[nut]"]) == 0
    assert f"background: bolt ({BOLTS})" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["annotations/instances_train.json", "labels.json", "Result.JSON"])
def test_a_json_file_is_given_itself(tmp_path, place, monkeypatch):
    (tmp_path / "set").mkdir()
    root = coco_folder(tmp_path / "set")
    path = root / place
    path.parent.mkdir(exist_ok=True)
    (root / "train.json").rename(path)
    monkeypatch.chdir(path.parent)
    for given in (path, Path(path.name)):
        train, val = read_splits(given, SplitOptions())
        assert counts(train)[1] + counts(val)[1] == NUTS and train.root.resolve() == root.resolve()
    path.write_text("[]")
    with pytest.raises(EyasError, match="is not a COCO file"):
        read_splits(path, SplitOptions())


def test_labels_are_drawn(tmp_path, capsys):
    root, out = coco_folder(tmp_path), tmp_path / "drawn"
    assert main(["data", str(root), "--draw", str(out), "--augment.scale", "[0.5, 1]"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["train.png", "val.png"]
    assert f"drawn        {out / 'train.png'}" in capsys.readouterr().out
