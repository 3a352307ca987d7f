"""The layouts of exporters and labelling tools: what is read from each, held against the pixels of the images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eyas.__main__ import main
from eyas.data import SplitOptions, read, read_part, read_splits
from eyas.types import EyasError
from helpers.drawn import assert_drawn, coco, draw, voc, yolo

ALL = range(6)
NAMES = "names: [bolt, nut]\n"


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def images(folder: Path, numbers: range = ALL, suffix: str = ".png") -> dict[int, str]:
    """Draw images into a folder. Returns number -> file name."""
    return {number: draw(folder / f"img{number:03}{suffix}", number).name for number in numbers}


def labels(folder: Path, numbers: range = ALL) -> None:
    for number in numbers:
        write(folder / f"img{number:03}.txt", yolo(number))


def cvat_coco(root: Path) -> str:
    names = images(root / "images/default/line 2")
    write(root / "annotations/instances_default.json", coco({n: f"line 2/{name}" for n, name in names.items()}))
    return "default"


def label_studio_coco(root: Path) -> str:
    names = images(root / "images")
    write(root / "result.json", coco({number: f"images\\{name}" for number, name in names.items()}))
    return "result"


def fiftyone_coco(root: Path) -> str:
    write(root / "labels.json", coco(images(root / "data")))
    return "all"


def coco_with_paths_of_another_machine(root: Path) -> str:
    names = images(root / "shots/day 1")
    write(root / "parts.json", coco({number: f"C:\\me\\set\\shots\\day 1\\{name}" for number, name in names.items()}))
    return "parts"


def cvat_yolo(root: Path) -> str:
    write(root / "train.txt", "".join(f"images/train/{name}\n" for name in images(root / "images/train").values()))
    labels(root / "labels/train")
    write(root / "data.yaml", "path: .\ntrain: train.txt\n" + NAMES)
    return "train"


def cvat_darknet(root: Path) -> str:
    names = images(root / "obj_train_data")
    labels(root / "obj_train_data")
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in names.values()))
    write(root / "obj.names", "bolt\nnut\n")
    return "train"


def label_img(root: Path) -> str:
    images(root)
    labels(root)
    write(root / "classes.txt", "bolt\nnut\n")
    return "all"


def label_studio_yolo(root: Path) -> str:
    images(root / "images")
    labels(root / "labels")
    write(root / "classes.txt", "\ufeffbolt\r\nnut\r\n")
    write(root / "notes.json", {"categories": [{"id": 0, "name": "bolt"}], "info": {}})
    return "all"


def label_studio_voc(root: Path) -> str:
    for number, name in images(root / "images", suffix=".jpg").items():
        write(root / "Annotations" / f"{Path(name).stem}.xml", voc(number, name))
    return "all"


def fiftyone_darknet(root: Path) -> str:
    names = images(root / "data")
    labels(root / "data")
    write(root / "images.txt", "".join(f"data/{name}\n" for name in names.values()))
    write(root / "obj.names", "bolt\nnut\n")
    return "all"


def fiftyone_yolo(root: Path) -> str:
    images(root / "images/val")
    labels(root / "labels/val")
    write(root / "dataset.yaml", f"path: .\nday: images/val\n{NAMES}")
    return "day"


def label_img_voc_in_a_folder(root: Path) -> str:
    for number, name in images(root / "shots").items():
        write(root / "xmls" / f"{Path(name).stem}.xml", voc(number, name))
    (root / "shots").rename(root / "images")
    return "all"


def via_coco(root: Path) -> str:
    """Ids of images are texts, and areas are there, and no license of an image is."""
    content = coco(images(root))
    for entry in content["images"]:
        entry["id"] = str(entry["id"])
    for entry in content["annotations"]:
        entry.update(image_id=str(entry["image_id"]), segmentation=[], area=1)
    write(root / "via_export_coco.json", content)
    return "via_export_coco"


def voc_without_lists(root: Path) -> str:
    for number, name in images(root / "JPEGImages", suffix=".jpg").items():
        write(root / "Annotations" / f"{Path(name).stem}.xml", voc(number))
    return "all"


def kaggle_voc(root: Path) -> str:
    for number, name in images(root / "images").items():
        write(root / "annotations" / f"{Path(name).stem}.xml", voc(number, name))
    return "all"


def fiftyone_voc(root: Path) -> str:
    for number, name in images(root / "data", suffix=".jpg").items():
        write(root / "labels" / f"{Path(name).stem}.xml", voc(number, name))
    return "all"


def label_img_voc(root: Path) -> str:
    for number, name in images(root, suffix=".Jpg").items():
        write(root / f"{Path(name).stem}.xml", voc(number, name))
    return "all"


def cvat_voc(root: Path) -> str:
    stems = [Path(name).stem for name in images(root / "JPEGImages/line_2", suffix=".jpg").values()]
    for number, stem in enumerate(stems):
        write(root / "Annotations/line_2" / f"{stem}.xml", voc(number, f"line_2/{stem}.jpg"))
    write(root / "ImageSets/Main/default.txt", "".join(f"line_2/{stem}\n" for stem in stems))
    for name in ("bolt", "nut"):
        write(root / f"ImageSets/Main/{name}_default.txt", "".join(f"line_2/{stem}  1\n" for stem in stems))
    return "default"


def kitti_without_lists(root: Path) -> str:
    for number in ALL:
        draw(root / "training/image_2" / f"{number:06}.png", number)
        rest = "-1 -1 -1 -1000 -1000 -1000 -10"
        lines = [line.split() for line in yolo(number).splitlines()]
        boxes = [(int(c), *(float(v) * s for v, s in zip(b, (96, 64, 96, 64), strict=True))) for c, *b in lines]
        text = "".join(
            f"{('Car', 'Cyclist')[c]} 0 0 0 {x - w / 2} {y - h / 2} {x + w / 2} {y + h / 2} {rest}\n"
            for c, x, y, w, h in boxes
        )
        write(root / "training/label_2" / f"{number:06}.txt", text)
    return "all"


ONE_SPLIT = [
    *(cvat_coco, label_studio_coco, fiftyone_coco, coco_with_paths_of_another_machine, cvat_yolo, cvat_darknet),
    *(label_studio_voc, fiftyone_darknet, fiftyone_yolo, label_img_voc_in_a_folder, via_coco),
    *(label_img, label_studio_yolo, voc_without_lists, kaggle_voc, fiftyone_voc, label_img_voc, cvat_voc),
]


@pytest.mark.parametrize("make", ONE_SPLIT)
def test_a_folder_of_one_split_is_read_by_its_name_or_in_two_parts(tmp_path: Path, make: Callable[[Path], str]):
    name = make(tmp_path)
    whole = read(tmp_path, name)
    assert_drawn(whole, 6, 7)
    assert not whole.warnings and not whole.problems
    train, val = read_splits(tmp_path, SplitOptions())
    assert_drawn(train, 5, 7 - sum(len(record.boxes) for record in val.records))
    assert len(val.records) == 1 and val.classes == train.classes == ("bolt", "nut")
    assert {r.image_id for r in train.records} | {r.image_id for r in val.records} == {
        r.image_id for r in whole.records
    }
    assert (train.split, val.split) == ("train", "val")
    assert f"1 of the 6 images of {name} is held out" in val.warnings[0] and "--dataset.val_split" in val.warnings[0]


def test_kitti_without_lists_is_one_split(tmp_path):
    kitti_without_lists(tmp_path)
    assert len(read(tmp_path, "all").records) == 6
    assert [len(source.records) for source in read_splits(tmp_path, SplitOptions())] == [5, 1]


def cvat_kitti(root: Path) -> None:
    kitti_without_lists(root)
    (root / "training").rename(root / "default")
    write(root / "label_colors.txt", "64 128 0 Car\n")


def test_a_folder_of_kitti_is_the_split_of_its_name(tmp_path):
    cvat_kitti(tmp_path)
    boxes = [record.boxes.round().tolist() for record in read(tmp_path, "default").records]
    kitti_without_lists(tmp_path / "usual")
    assert boxes == [record.boxes.round().tolist() for record in read(tmp_path / "usual", "all").records]
    assert sum(map(len, boxes)) == 7
    assert [len(source.records) for source in read_splits(tmp_path, SplitOptions())] == [5, 1]
    with pytest.raises(EyasError, match=r"the splits there are: default"):
        read(tmp_path, "test")


REFUSED: dict[str, tuple[str, object, str]] = {
    "CVAT's own XML": ("annotations.xml", "<annotations/>", "is CVAT's own XML: it is not read; export it as COCO"),
    "Label Studio's own JSON": ("project.json", [{"id": 1, "data": {"image": "a.png"}}], "is Label Studio's own JSON"),
    "FiftyOne's own": ("samples.json", {"samples": []}, "is a data set in FiftyOne's own format"),
    "VIA's own JSON": ("via.json", {"a.png7": {"filename": "a.png", "regions": []}}, "is a project of VIA"),
    "VIA's CSV": ("via_export.csv", "filename,region_count\n", "is a CSV: if it has the boxes, it is not read"),
    "LabelMe": ("a.json", {"shapes": [], "imagePath": "a.png"}, "is a LabelMe file for each image: .*from_supervision"),
    "CreateML": ("a.createml.json", [], "is a data set in CreateML's format: .*from_supervision"),
    "Roboflow's TFRecord": ("train/parts.tfrecord", "", "is a data set in TFRecord"),
    "Roboflow's CSV": ("train/_annotations.csv", "filename\n", "is a CSV of boxes"),
    "a table beside images": ("metadata.csv", "file_name\n", ".*: write the boxes into metadata.jsonl, which is read"),
    "an archive": ("task.zip", "PK", "is an archive: unpack it, and give the folder"),
}


@pytest.mark.parametrize(("name", "content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_read_is_named_with_what_to_do(tmp_path, name, content, said):
    draw(tmp_path / "a.png", 0)
    write(tmp_path / name, content)
    with pytest.raises(EyasError, match=rf"no data set recognised; .*\. {tmp_path / name} {said}"):
        read(tmp_path, "train")


def roboflow_voc(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("valid", range(4, 6))):
        for number, name in images(root / folder, numbers, ".jpg").items():
            write(root / folder / f"{Path(name).stem}.xml", voc(number, name))


def roboflow_coco(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("valid", range(4, 6))):
        content = coco(images(root / folder, numbers, ".jpg"))
        content["categories"] = [
            {"id": 0, "name": "parts", "supercategory": "none"},
            *({**category, "supercategory": "parts"} for category in content["categories"]),
        ]
        write(root / folder / "_annotations.coco.json", content)


def roboflow_yolo(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("valid", range(4, 6))):
        images(root / folder / "images", numbers, ".jpg")
        labels(root / folder / "labels", numbers)
    write(root / "data.yaml", f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{NAMES}")


def roboflow_yolo_downloaded_by_code(root: Path) -> None:
    roboflow_yolo(root)
    write(root / "data.yaml", f"train: parts-3/train/images\nval: parts-3/valid/images\n{NAMES}")


def yolo_with_splits_of_another_machine(root: Path) -> None:
    yolo_splits(root)
    write(root / "data.yaml", f"train: /home/me/parts/images/train\nval: 'C:\\parts\\images\\val'\n{NAMES}")


def yolo_splits(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("val", range(4, 6))):
        images(root / "images" / folder, numbers)
        labels(root / "labels" / folder, numbers)
    write(root / "data.yaml", f"path: /home/me/parts\ntrain: images/train\nval: images/val\n{NAMES}")


def yolo_of_another_name(root: Path) -> None:
    yolo_splits(root)
    (root / "data.yaml").rename(root / "parts of mine.yaml")


def label_img_by_split(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("val", range(4, 6))):
        images(root / folder, numbers)
        labels(root / folder, numbers)
        write(root / folder / "classes.txt", "bolt\nnut\n")


def roboflow_darknet(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("valid", range(4, 6))):
        images(root / folder, numbers, ".jpg")
        labels(root / folder, numbers)
        write(root / folder / "_darknet.labels", "bolt\nnut\n")


def fiftyone_coco_by_split(root: Path) -> None:
    for folder, numbers in (("train", range(5)), ("val", range(4, 6))):
        write(root / folder / "labels.json", coco(images(root / folder / "data", numbers)))


def coco_with_other_names(root: Path) -> None:
    for name, numbers in (("parts_train", range(5)), ("parts-val", range(4, 6))):
        write(root / "labels" / f"{name}.json", coco(images(root / "images", numbers)))


TWO_SPLITS = [
    *(roboflow_voc, roboflow_coco, roboflow_yolo, roboflow_yolo_downloaded_by_code, yolo_splits, yolo_of_another_name),
    *(
        yolo_with_splits_of_another_machine,
        label_img_by_split,
        roboflow_darknet,
        fiftyone_coco_by_split,
        coco_with_other_names,
    ),
]


@pytest.mark.parametrize("make", TWO_SPLITS)
def test_a_folder_with_a_validation_split_is_not_cut(tmp_path: Path, make: Callable[[Path], None]):
    make(tmp_path)
    train, val = read_splits(tmp_path, SplitOptions())
    assert_drawn(train, 5, 7)
    assert_drawn(val, 2, 1)
    assert train.classes == ("bolt", "nut")
    assert not any("held out" in warning for warning in (*train.warnings, *val.warnings))
    assert [r.image_id for r in read(tmp_path, "val").records] == [r.image_id for r in val.records]


def test_entries_of_another_machine_are_told(tmp_path):
    yolo_with_splits_of_another_machine(tmp_path)
    (warning,) = read(tmp_path, "train").warnings
    assert f"/home/me/parts/images/train is not there; read {tmp_path / 'images/train'}" in warning


@pytest.mark.parametrize("entry", ["../valid/images", "/home/me/valid/images", "parts/valid/images", "images/test"])
def test_an_entry_whose_folder_is_missing_is_not_another_one(tmp_path, entry):
    """Left out is never so much that only ``images`` remains, which holds all splits."""
    yolo_splits(tmp_path)
    write(tmp_path / "data.yaml", f"train: images/train\nval: {entry}\n{NAMES}")
    with pytest.raises(EyasError, match=rf"data\.yaml: {entry} is not in .*; correct the path, or remove the entry"):
        read(tmp_path, "val")


def test_a_yaml_file_is_given_itself(tmp_path, capsys):
    yolo_splits(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "belts.yaml")
    write(tmp_path / "other.yaml", f"train: images/val\n{NAMES}")
    with pytest.raises(EyasError, match=r"several files describe a data set: belts\.yaml, other\.yaml; give one"):
        read(tmp_path, "train")
    assert_drawn(read(tmp_path / "belts.yaml", "train"), 5, 7)
    assert main(["data", str(tmp_path / "belts.yaml")]) == 0
    assert "5 images (0 without objects), 7 objects" in capsys.readouterr().out


def test_a_path_outside_is_refused_with_advice_that_works(tmp_path):
    yolo_splits(tmp_path / "datasets/parts")
    (tmp_path / "datasets/parts/data.yaml").unlink()
    project = tmp_path / "project"
    text = f"path: ../datasets/parts\ntrain: images/train\nval: images/val\n{NAMES}"
    write(project / "data.yaml", text)
    with pytest.raises(
        EyasError, match=rf"is outside {project}; give {tmp_path}, which holds both, or copy data\.yaml"
    ):
        read(project, "train")
    assert_drawn(read(tmp_path, "train"), 5, 7)
    write(tmp_path / "datasets/parts/data.yaml", text)
    assert_drawn(read(tmp_path / "datasets/parts", "train"), 5, 7)


def test_the_folder_above_a_data_set_names_it(tmp_path):
    voc_without_lists(tmp_path / "parts")
    with pytest.raises(EyasError, match=rf"Data sets are in {tmp_path / 'parts'}: give one of them"):
        read(tmp_path, "all")


def test_what_is_ambiguous_names_its_readings(tmp_path):
    label_img(tmp_path)
    for number in ALL:
        write(tmp_path / f"img{number:03}.xml", voc(number))
    with pytest.raises(EyasError, match=r"looks like voc and yolo data; choose one by --dataset\.format"):
        read(tmp_path, "all")
    assert_drawn(read(tmp_path, "all", format="voc"), 6, 7)
    assert_drawn(read(tmp_path, "all", format="yolo"), 6, 7)


def test_two_splits_of_other_names_ask_which_to_train_on(tmp_path):
    for name, numbers in (("day", range(3)), ("night", range(3, 6))):
        write(tmp_path / f"{name}.json", coco(images(tmp_path / "images", numbers)))
    with pytest.raises(
        EyasError, match=r"has no split 'train' .*there are: day, night\. Name .*--dataset\.train_split"
    ):
        read_splits(tmp_path, SplitOptions())
    train, val = read_splits(tmp_path, SplitOptions(train_split="day", val_split="night"))
    assert (len(train.records), len(val.records)) == (3, 3)


def test_a_split_that_is_not_there_names_the_others_and_the_options(tmp_path):
    yolo_splits(tmp_path)
    with pytest.raises(
        EyasError, match=r"no split 'test' \(yolo format\); the splits there are: train, val\. .*--split"
    ):
        read(tmp_path, "test")
    assert len(read(tmp_path, "Train").records) == 5  # another case


def test_validation_images_alone_are_not_trained_on_unless_named(tmp_path):
    write(tmp_path / "annotations/instances_val.json", coco(images(tmp_path / "images/val")))
    with pytest.raises(EyasError, match=r"there are: val\. Name the one to train on by --dataset\.train_split"):
        read_splits(tmp_path, SplitOptions())
    train, val = read_splits(tmp_path, SplitOptions(train_split="val"))
    assert len(train.records) == len(val.records) == 6


def test_the_files_of_other_tasks_are_no_splits(tmp_path):
    names = coco(images(tmp_path / "images"))
    for name in ("instances_train2017", "captions_train2017", "panoptic_train2017"):
        write(tmp_path / f"annotations/{name}.json", names)
    with pytest.raises(EyasError, match=r"the splits there are: train, train2017\."):
        read(tmp_path, "test")
    assert_drawn(read(tmp_path, "train2017"), 6, 7)


def test_the_command_shows_both_parts_or_a_split_as_it_is(tmp_path, capsys):
    cvat_coco(tmp_path)
    assert main(["data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "split train\n5 images" in shown and "split val\n1 images" in shown
    assert "warning      " in shown and "held out for evaluation" in shown
    assert main(["data", str(tmp_path), "--split", "default"]) == 0
    shown = capsys.readouterr().out
    assert "split default\n6 images (1 without objects), 7 objects" in shown and "held out" not in shown


def test_a_part_is_the_same_alone(tmp_path):
    cvat_coco(tmp_path)
    train, val = read_splits(tmp_path, SplitOptions(val_seed=3))
    for source in (train, val):
        part = read_part(tmp_path, source.split, SplitOptions(val_seed=3))
        assert [record.path for record in part.records] == [record.path for record in source.records]
    assert len(read_part(tmp_path, "default", SplitOptions()).records) == 6
