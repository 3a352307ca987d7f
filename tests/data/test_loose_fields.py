"""Files that are written loosely: what decides no box is accepted, what decides one is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as judge

from eyas.__main__ import main
from eyas.data import SplitOptions, check_images, read, read_splits, require_objects, without_objects
from eyas.data.formats.coco_shapes import extent
from eyas.data.formats.yolo_labels import label_paths, look_like_pose
from eyas.data.images import FORMATS, SUFFIXES, find_image, images_below
from eyas.types import EyasError
from helpers.drawn import HEIGHT, THINGS, WIDTH, assert_drawn, coco, draw, voc, yolo

CRLF = "\r\n"


def coco_folder(root: Path, change=lambda content: content, numbers: range = range(6)) -> Path:
    names = {number: draw(root / "images/train" / f"img{number:03}.png", number).name for number in numbers}
    (root / "annotations").mkdir(exist_ok=True)
    content = change(coco(names))
    (root / "annotations/instances_train.json").write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return root


def every(key: str, **values: object):
    """Every entry of a list with other values; None is null."""
    return lambda content: {**content, key: [{**entry, **values} for entry in content[key]]}


def ids_as(kind):
    def change(content):
        keys = ("id", "image_id", "category_id")
        return {
            name: [{key: kind(value) if key in keys else value for key, value in entry.items()} for entry in entries]
            for name, entries in content.items()
        }

    return change


def boxes_as_text(content):
    return every("annotations")(
        {**content, "annotations": [{**e, "bbox": [f" {v}.0" for v in e["bbox"]]} for e in content["annotations"]]}
    )


def polygons(content):
    def corners(x, y, w, h):
        return [[x, y, x + w, y, x + w, y + h / 2], [x, y + h / 2, x, y + h, x + w, y + h]]

    return {
        **content,
        "annotations": [
            {**{k: v for k, v in e.items() if k != "bbox"}, "segmentation": corners(*e["bbox"])}
            for e in content["annotations"]
        ],
    }


def masks(compressed: bool):
    def change(content):
        entries = []
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            pixels[y : y + h, x : x + w] = 1
            counts = [0, *np.diff(np.flatnonzero(np.diff(pixels.ravel("F"), prepend=1 - pixels[0, 0], append=2)))]
            mask = {"size": [HEIGHT, WIDTH], "counts": [int(count) for count in counts][not pixels[0, 0] :]}
            if compressed:
                mask["counts"] = judge.encode(pixels)["counts"].decode()
            entries.append({**entry, "bbox": [], "segmentation": mask})
        return {**content, "annotations": entries}

    return change


LOOSE_COCO = {
    "null": every("annotations", iscrowd=None, area=None, segmentation=None, attributes=None),
    "flags as text": every("annotations", iscrowd="0", area="12.5"),
    "flags of other types": every("annotations", iscrowd=False, area=12),
    "flags as floats": every("annotations", iscrowd=0.0, score=None),
    "ids as text": ids_as(str),
    "ids as floats": ids_as(float),
    "ids as text of floats": ids_as(lambda value: f"{value}.0"),
    "sizes as text": every("images", width=str(WIDTH), height=f"{HEIGHT}.0"),
    "sizes null": every("images", width=None, height=None, license=None, date_captured=None),
    "annotations without id": every("annotations", id=None),
    "boxes as text": boxes_as_text,
    "polygons": polygons,
    "masks": masks(compressed=False),
    "compressed masks": masks(compressed=True),
    "spaces around names": every("categories", supercategory=" "),
    "unknown keys": lambda content: {**content, "info": None, "licenses": [None], "x": [1, [2]], "y": {"z": 0}},
    "byte order mark and CRLF": lambda content: "\ufeff" + json.dumps(content, indent=1).replace("\n", CRLF),
}


@pytest.mark.parametrize("change", LOOSE_COCO.values(), ids=LOOSE_COCO.keys())
def test_loose_coco_is_read(tmp_path, change):
    source = read(coco_folder(tmp_path, change), "train")
    assert_drawn(source, 6, 7)
    assert source.classes == ("bolt", "nut") and not source.problems and not source.warnings


def test_images_may_have_texts_as_ids(tmp_path):
    def named(content):
        of = {entry["id"]: entry["file_name"] for entry in content["images"]}
        content["images"] = [{**entry, "id": of[entry["id"]]} for entry in content["images"]]
        content["annotations"] = [{**entry, "image_id": of[entry["image_id"]]} for entry in content["annotations"]]
        return content

    source = read(coco_folder(tmp_path, named), "train")
    assert_drawn(source, 6, 7)
    assert source.records[0].image_id == "img000.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (every("annotations", bbox=None), "annotation 1 has neither bbox nor segmentation"),
        (every("annotations", bbox=[1, 2, "wide", 4]), "annotation 1 has a bbox with 'wide'; write a number"),
        (every("annotations", bbox=[1, 2, None, 4]), "annotation 1 has a bbox with None; write a number"),
        (every("annotations", bbox=[1, 2, True, 4]), "annotation 1 has a bbox with True"),
        (every("annotations", bbox=None, segmentation=[[1, 2, 3]]), "a polygon with an odd count"),
        (every("annotations", bbox=None, segmentation={"size": [4], "counts": "x"}), "annotation 1 has the mask"),
        (every("annotations", bbox=None, segmentation="x"), "annotation 1 has the segmentation 'x'"),
        (every("annotations", iscrowd="maybe"), "annotation 1 has iscrowd 'maybe'; write 0 or 1"),
        (every("annotations", category_id="nut"), "annotation 1 has the unknown category nut"),
        (every("annotations", category_id=None), "annotation 1 has no category_id"),
        (every("categories", name=None), "category 1 has no name"),
        (every("categories", id="one"), "a category has the id 'one'; write a whole number"),
        (every("images", id=1), "two entries have the image id 1"),
        (every("images", id=1.5), "one image has the id 1.5"),
        (lambda content: {**content, "annotations": [3]}, "an annotation is 3; write an object"),
    ],
)
def test_what_decides_a_box_is_refused(tmp_path, change, message):
    with pytest.raises(EyasError, match=message):
        read(coco_folder(tmp_path, change), "train")


def roots(name: str):
    def change(content):
        children = [{**category, "supercategory": name} for category in content["categories"]]
        return {**content, "categories": [{"id": 0, "name": name, "supercategory": "none"}, *children]}

    return change


@pytest.mark.parametrize("name", ["parts", "bolt", "Nut"])
def test_a_root_above_the_classes_is_none(tmp_path, name):
    source = read(coco_folder(tmp_path, roots(name)), "train")
    assert source.classes == ("bolt", "nut")
    assert_drawn(source, 6, 7)


def test_classes_without_objects_stay(tmp_path):
    """Only a category above others is a root."""
    rare = {"id": 3, "name": "washer", "supercategory": "none"}
    source = read(
        coco_folder(tmp_path, lambda content: {**content, "categories": [*content["categories"], rare]}), "train"
    )
    assert source.classes == ("bolt", "nut", "washer")
    used = every("annotations", category_id=3)
    root = coco_folder(tmp_path / "used", lambda content: used(roots("x")({**content, "categories": [rare]})))
    assert read(root, "train").classes == ("washer",)


def test_two_categories_of_one_name_name_the_option(tmp_path):
    root = coco_folder(tmp_path, every("categories", name="part"))
    with pytest.raises(EyasError, match=r"two categories have one name: part, part\. .*--dataset\.classes '\[part\]'"):
        read(root, "train")
    assert set(np.concatenate([r.labels for r in read(root, "train", classes=["part"]).records])) == {0}


def test_a_class_of_the_validation_images_alone_names_file_class_and_option(tmp_path, capsys):
    coco_folder(tmp_path)
    shutil.copytree(tmp_path / "images/train", tmp_path / "images/val")
    content = (tmp_path / "annotations/instances_train.json").read_text().replace('"bolt"', '"washer"')
    (tmp_path / "annotations/instances_val.json").write_text(content)
    assert main(["data", str(tmp_path)]) == 2
    assert "instances_val.json: unknown class 'washer'" in (said := capsys.readouterr().err)
    assert "--dataset.classes" in said


@pytest.mark.parametrize("name", ["images\\train\\{}", ".\\{}", "C:\\me\\images\\train\\{}", "/home/me/x/train/{}"])
def test_paths_of_other_machines(tmp_path, name):
    def change(content):
        named = [{**entry, "file_name": name.format(entry["file_name"])} for entry in content["images"]]
        return {**content, "images": named}

    assert_drawn(read(coco_folder(tmp_path, change), "train"), 6, 7)


def test_an_image_in_another_folder_is_not_taken_for_one_that_is_missing(tmp_path):
    """Were first parts left out of single paths, ``b/img001.png`` would be ``img001.png``."""

    def change(content):
        content["images"][1]["file_name"] = "b/img001.png"
        return content

    with pytest.raises(EyasError, match=r"b/img001\.png is not in "):
        read(coco_folder(tmp_path, change), "train")


def test_every_mask_has_pycocotools_extent():
    random = np.random.default_rng(1)
    for _ in range(60):
        pixels = np.asfortranarray((random.random((9, 7)) < random.choice([0.02, 0.2, 0.9])).astype(np.uint8))
        mask = judge.encode(pixels)
        x, y, w, h = judge.toBbox(mask)
        text = {"size": [9, 7], "counts": mask["counts"].decode()}
        if pixels.any():
            assert extent(text, "a") == (x, y, x + w, y + h)
        else:
            assert all(map(math.isnan, extent(text, "a")))


# YOLO


def yolo_folder(root: Path, config: str, numbers: range = range(6)) -> Path:
    root.mkdir(exist_ok=True)
    for number in numbers:
        draw(root / "images/train" / f"img{number:03}.png", number)
        label = root / "labels/train" / f"img{number:03}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(yolo(number))
    (root / "data.yaml").write_text(config, encoding="utf-8")
    return root


TRAIN = "train: images/train\n"


@pytest.mark.parametrize(
    "config",
    [
        TRAIN + "names: {'0': bolt, '1': nut}",
        TRAIN + "names: {0.0: bolt, 1: nut}",
        TRAIN + "names: [' bolt', 'nut ']",
        TRAIN + "names: [bolt, nut]\nnc: '2'\nval: null\ntest:\npath: null",
        TRAIN + "names: [bolt, nut]\nnc: 2.0\nimgsz: [640, 640]\nmean: [0.1, null]\nflip_idx: []",
        TRAIN + "names: [bolt, nut]\n1: [a]\nauthor: {name: me}\ntags: [a, 2]\ndate: 2024-01-01\ndownload: |\n  x = 1",
        "\ufeff" + (TRAIN + "names:\n- bolt\n- nut\n").replace("\n", CRLF),
        "train: images\\train\nnames: [bolt, nut]",
        "train: './images/train/'\nnames: [bolt, nut]",
        "train: [images/train, '']\nnames: [bolt, nut]",
    ],
)
def test_loose_descriptions_are_read(tmp_path, config):
    source = read(yolo_folder(tmp_path, config), "train")
    assert_drawn(source, 6, 7)
    assert source.classes == ("bolt", "nut") and not source.warnings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TRAIN + "names: {1: bolt, 2: nut}", "without a gap, as the labels count from 0; got"),
        (TRAIN + "names: {0: bolt, '0': nut}", "without a gap"),
        (TRAIN + "names: [bolt, null]", "has the class name None; write a name in quotes"),
        (TRAIN + "names: [yes, no]", "has the class name True"),
        (TRAIN + "names: [bolt, nut]\nnc: many", "nc: is 'many', but names: has 2 classes"),
        ("train: 7\nnames: [bolt, nut]", "'train': is 7; write folders or list files"),
        (TRAIN + "names: [bolt, nut]\nkpt_shape: 8", "kpt_shape: is 8; write"),
    ],
)
def test_descriptions_that_decide_boxes_are_refused(tmp_path, config, message):
    with pytest.raises(EyasError, match=message):
        read(yolo_folder(tmp_path, config), "train")


@pytest.mark.parametrize("form", ["{}", "./{}", "'{}'", '"{}"', "  {}  ", "/home/me/set/{}", "D:\\set\\{}"])
def test_lines_of_a_list(tmp_path, form):
    root = yolo_folder(tmp_path, "train: train.txt\nnames: [bolt, nut]")
    names = [f"images/train/img{number:03}.png" for number in range(6)]
    lines = [form.format(name.replace("/", "\\") if "\\" in form else name) for name in names]
    (root / "train.txt").write_text("\ufeff" + CRLF.join([*lines, "", ""]), encoding="utf-8")
    assert_drawn(read(root, "train"), 6, 7)


def pose(number: int, points: int = 8, numbers: int = 2) -> str:
    """The label file of an image as pose labels: key points anywhere inside the box, one of them not labelled."""
    random, lines = np.random.default_rng(number), []
    for line in yolo(number).splitlines():
        _, x, y, w, h = map(float, line.split())
        keys = random.uniform(-0.5, 0.5, (points, 2)) * (w, h) + (x, y)
        keys[-1] = 0
        flags = np.where(keys.any(1, keepdims=True), 2, 0)
        rest = np.concatenate([keys, flags], 1)[:, :numbers].ravel()
        lines.append(" ".join([line, *(f"{value:.6f}" if value != 2 else "2" for value in rest)]))
    return "\n".join(lines)


@pytest.mark.parametrize("shape", [(8, 2), (17, 3), (4, 3), (1, 2), (2, 3)])
def test_pose_labels_have_their_box_first(tmp_path, shape):
    root = yolo_folder(tmp_path, f"{TRAIN}kpt_shape: [{shape[0]}, '{shape[1]}']\nnames: [bolt, nut]")
    for number in range(6):
        (root / "labels/train" / f"img{number:03}.txt").write_text(pose(number, *shape))
    assert_drawn(read(root, "train"), 6, 7)
    (root / "labels/train/img000.txt").write_text("1 .5 .5 .1 .1 .5 .5 .1")
    with pytest.raises(EyasError, match=r"img000\.txt:1: 8 columns, but kpt_shape: says that a line has"):
        read(root, "train")


@pytest.mark.parametrize("shape", [(8, 2), (6, 3), (5, 2), (3, 2)])
def test_pose_labels_without_their_shape_are_refused(tmp_path, shape):
    root = yolo_folder(tmp_path, TRAIN + "names: [bolt, nut]")
    for number in range(6):
        (root / "labels/train" / f"img{number:03}.txt").write_text(pose(number, *shape))
    with pytest.raises(EyasError, match=r"img000\.txt:1: looks like pose labels.* write kpt_shape: \[number of key"):
        read(root, "train")


def outline(random: np.random.Generator, corners: int) -> list[float]:
    """A polygon of ``corners`` around a centre: no two sides cross."""
    angles = np.sort(random.uniform(0, 2 * np.pi, corners))
    radius = random.uniform(0.02, 0.08) * random.uniform(0.6, 1, corners)
    centre = random.uniform(0.15, 0.85, 2)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + centre
    return points.ravel().tolist()


@pytest.mark.parametrize("corners", [3, 4, 5, 8, 12, 30])
def test_polygons_are_not_taken_for_pose_labels(corners):
    """Small ones far from the corner of the image, whose points are all in the box that their first four would make."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert not look_like_pose([outline(random, corners) for _ in range(30)])


@pytest.mark.parametrize("turned", [False, True])
def test_rectangles_of_four_corners_are_polygons(turned):
    random = np.random.default_rng(0)
    for _ in range(50):
        centre, (a, b) = random.uniform(0.2, 0.8, 2), random.uniform(0.01, 0.1, 2)
        angle = random.uniform(0, np.pi) if turned else 0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([(-a, -b), (a, -b), (a, b), (-a, b)]) @ turn.T + centre
        assert not look_like_pose([corners.ravel().tolist()])


def test_polygons_may_be_declared(tmp_path):
    root = yolo_folder(tmp_path, TRAIN + "kpt_shape: [0, 2]\nnames: [bolt, nut]")
    for number in range(6):
        (root / "labels/train" / f"img{number:03}.txt").write_text(pose(number))
    assert len(read(root, "train").records) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .1 .1 .9", "6 columns; .*a sixth column, such as the confidence of a prediction, must be removed"),
        ("0 .5 .5 .1", "4 columns"),
        ("2 .5 .5 .1 .1", "unknown class 2; the labels count from 0, and the names are 2, 0 to 1: bolt, nut"),
    ],
)
def test_lines_name_what_to_do(tmp_path, line, message):
    root = yolo_folder(tmp_path, TRAIN + "names: [bolt, nut]")
    (root / "labels/train/img000.txt").write_text(f"\n{line}\n")
    with pytest.raises(EyasError, match=rf"img000\.txt:2: {message}"):
        read(root, "train")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("images/train/a.b.jpg", ["labels/train/a.b.txt", "images/train/a.b.txt"]),
        ("train/images/a.png", ["train/labels/a.txt", "train/images/a.txt"]),
        ("images/images/a.png", ["images/labels/a.txt", "labels/images/a.txt", "images/images/a.txt"]),
        ("Images/a.png", ["Labels/a.txt", "Images/a.txt"]),
        ("flat/images.png", ["flat/images.txt"]),
    ],
)
def test_where_labels_are_looked_for(image, expected):
    assert label_paths(Path(image)) == [Path(path) for path in expected]


@pytest.mark.parametrize("above", ["set", "images", "images/labels/images"])
@pytest.mark.parametrize("folder", ["line", "images", "line/images", "images/belt/images", "line/images/day 2"])
def test_labels_beside_their_images_are_found(tmp_path, above, folder):
    root = tmp_path / above
    for number in range(6):
        draw(root / folder / f"{number}.png", number)
        (root / folder / f"{number}.txt").write_text(yolo(number))
    (root / "data.yaml").write_text(f"train: {folder}\nnames: [bolt, nut]")
    source = read(root, "train")
    assert_drawn(source, 6, 7)
    assert not source.warnings and not source.problems


def test_labels_that_are_not_read_are_told(tmp_path):
    root = yolo_folder(tmp_path, TRAIN + "names: [bolt, nut]")
    (root / "labels").rename(root / "txt")
    source = read(root, "train")
    assert source.warnings[0].startswith(
        f"split train: 5 label files are not read, such as {root}/txt/train/img000.txt"
    )
    assert "looked for at labels/train/img000.txt or images/train/img000.txt" in source.warnings[0]
    (root / "txt").rename(root / "labels")
    (root / "images/train/img000.txt").write_text("0 .5 .5 .1 .1")
    (warning,) = read(root, "train").warnings
    assert "1 images have two label files; " in warning


def test_backgrounds_do_not_claim_the_labels_of_other_splits(tmp_path):
    root = yolo_folder(tmp_path, "train: images/train\nval: images/val\nnames: [bolt, nut]")
    draw(root / "images/val/img000.png", 5)
    assert not read(root, "val").warnings


# VOC and KITTI


def voc_folder(root: Path, text=voc, names=lambda number: f"img{number:03}", suffix: str = ".jpg") -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        draw(root / "JPEGImages" / f"{names(number)}{suffix}", number)
        (root / "Annotations" / f"{names(number)}.xml").write_text(text(number))
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{names(number)}\n" for number in range(6)))
    return root


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<difficult>0</difficult>", "<difficult/>"),
        lambda text: text.replace("<difficult>0</difficult>", "<difficult> </difficult><truncated/>"),
        lambda text: text.replace("<difficult>0</difficult>", ""),
        lambda text: text.replace("</xmin>", ".0</xmin>").replace("<ymax>", "<ymax> "),
        lambda text: text.replace("<size>", "<size><depth/>").replace("<width>96</width>", "<width/>"),
        lambda text: text.replace(text[text.index("<size>") : text.index("</size>") + 7], "<size/>"),
        lambda text: text.replace("<annotation>", '<annotation xmlns="http://x.org/y">'),
        lambda text: (
            text.replace("<", "<v:").replace("<v:/", "</v:").replace("annotation>", 'annotation xmlns:v="x">', 1)
        ),
        lambda text: "\ufeff<?xml version='1.0'?>\n" + text.replace("\n", CRLF),
        lambda text: text.replace("<name>nut</name>", "<name>\n nut </name><pose/><attributes/>"),
    ],
)
def test_loose_xml_is_read(tmp_path, change):
    source = read(voc_folder(tmp_path, lambda number: change(voc(number))), "train")
    assert_drawn(source, 6, 7)
    assert source.classes == ("bolt", "nut") and not source.problems


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>33</xmin>", "<xmin/>", "<object> has no bndbox/xmin; add it"),
        ("<xmin>33</xmin>", "<xmin>left</xmin>", "bndbox/xmin is 'left', not a number"),
        ("<difficult>0<", "<difficult>7<", "this object has difficult 7; write 0 or 1"),
        ("<name>nut</name>", "<name/>", "this object has no <name>"),
    ],
)
def test_xml_that_decides_a_box_is_refused(tmp_path, old, new, message):
    root = voc_folder(tmp_path, lambda number: voc(number).replace(old, new))
    with pytest.raises(EyasError, match=rf"img000\.xml:\d+: {message}"):
        read(root, "train")


@pytest.mark.parametrize("name", ["shot {}", "shot {}  b", "{}. (copy) 1", "it's {}", 'the "{}"'])
@pytest.mark.parametrize("form", ["{}", "{}.jpg", "  {} "])
def test_names_with_spaces_and_quotes(tmp_path, name, form):
    root = voc_folder(tmp_path, names=name.format)
    (root / "ImageSets/Main/train.txt").write_text(CRLF.join(form.format(name.format(n)) for n in range(6)))
    assert_drawn(read(root, "train"), 6, 7)


def test_a_line_that_could_be_two_names_is_refused(tmp_path):
    root = voc_folder(tmp_path)
    (root / "ImageSets/Main/train.txt").write_text("img000  1\nimg001 -1\n")
    assert [record.image_id for record in read(root, "train").records] == ["img000", "img001"]
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        shutil.copy(root / folder / f"img002{suffix}", root / folder / f"img000  1{suffix}")
    with pytest.raises(EyasError, match=r"train\.txt:1: could mean img000  1\.xml and img000\.xml; rename one"):
        read(root, "train")


def test_images_without_xml_are_told_and_xml_without_image_is_listed(tmp_path):
    root = voc_folder(tmp_path)
    shutil.rmtree(root / "ImageSets")
    (root / "Annotations/img005.xml").unlink()
    (root / "JPEGImages/img000.jpg").unlink()
    source = read(root, "all")
    assert_drawn(source, 4, 6)
    assert "1 images have no annotation file" in source.warnings[0] and "img005.jpg" in source.warnings[0]
    assert [problem.path.name for problem in source.problems] == ["img000.xml"]


def test_kitti_with_classes_of_your_own_names_the_option(tmp_path):
    draw(tmp_path / "image_2/000001.png", 0)
    (tmp_path / "label_2").mkdir()
    (tmp_path / "label_2/000001.txt").write_text("nut 0.00 0 -10 32 7 62 21 -1 -1 -1 -1000 -1000 -1000 -10 0.93\n")
    with pytest.raises(EyasError, match=r"000001\.txt:1: unknown class 'nut'; .*--dataset\.classes"):
        read(tmp_path, "all")
    assert_drawn(read(tmp_path, "all", classes=["bolt", "nut"]), 1, 1)


# What holds in every format


def test_crowds_alone_are_told(tmp_path, capsys):
    root = coco_folder(tmp_path, every("annotations", iscrowd=1))
    said = "no image of split train has an object (ignore regions: 7): all 7 are crowd (iscrowd 1)"
    source = read(root, "train")
    assert without_objects(source).startswith(said) and not source.warnings
    with pytest.raises(EyasError, match=r"all 7 are crowd .*; nothing can be learned from it, see `eyas data "):
        require_objects(source)
    assert main(["data", str(root), "--split", "[train]"]) == 0
    shown = capsys.readouterr().out
    assert f"warning      {said}" in shown and "every record and box is used" not in shown


def test_a_class_that_is_mostly_crowd_is_told(tmp_path):
    def change(content):
        return {
            **content,
            "annotations": [{**e, "iscrowd": int(e["category_id"] == 1)} for e in content["annotations"]],
        }

    (warning,) = read(coco_folder(tmp_path, change), "train").warnings
    assert warning.startswith("split train: class bolt has 2 ignore regions and 0 objects")


def test_a_split_without_objects_is_told(tmp_path):
    root = coco_folder(tmp_path, numbers=range(5, 6))
    source = read(root, "train")
    assert without_objects(source) == "no image of split train has an object"
    with pytest.raises(EyasError, match="no image of split train has an object; nothing can be learned"):
        require_objects(source)
    assert without_objects(read(coco_folder(tmp_path / "full"), "train")) is None


def test_the_suffixes_are_those_of_the_decoder(tmp_path):
    registered = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    assert set(SUFFIXES) == registered and len(set(SUFFIXES)) == len(SUFFIXES)
    written = ["a.Jpg", "b.WEBP", "c.TIF", "d.ppm", "e.JPG", "f.gif", "g.jp2", "h.PNG", "i.jPeG", "sub/j.bmp"]
    for number, name in enumerate(written):
        draw(tmp_path / name, number)
    for name in ("._a.png", ".ipynb_checkpoints/a.png", "notes.txt", "k.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)] == written
    for name in written:
        assert find_image(tmp_path, name.rpartition(".")[0]) == tmp_path / name


@pytest.mark.parametrize("suffix", [".Jpg", ".WEBP", ".TIF", ".ppm", ".JPG", ".Png", ".gif"])
def test_every_reader_knows_every_suffix(tmp_path, suffix):
    def renamed(content):
        named = [{**e, "file_name": f"{Path(e['file_name']).stem}{suffix}"} for e in content["images"]]
        return {**content, "images": named}

    for root in (yolo_folder(tmp_path / "yolo", TRAIN + "names: [bolt, nut]"), coco_folder(tmp_path, renamed)):
        for number in range(6):
            draw(root / f"images/train/img{number:03}{suffix}", number)
            (root / f"images/train/img{number:03}.png").unlink()
        assert_drawn(read(root, "train"), 6, 7)
    assert_drawn(read(voc_folder(tmp_path / "voc", suffix=suffix), "train"), 6, 7)


def test_images_of_16_bits_are_told_from_their_headers(tmp_path, capsys):
    root = coco_folder(tmp_path)
    deep = root / "images/train/img001.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(deep)
    whole = deep.read_bytes()
    deep.write_bytes(whole[:60])  # the header is all that is looked at
    (problem,) = check_images(read(root, "train"), decoded=False)
    assert problem.path == deep and "more than 8 bits per channel" in problem.message
    deep.write_bytes(whole)
    assert main(["data", str(root), "--split", "[train]"]) == 0
    assert f"{deep}: has more than 8 bits per channel (I;16); convert it to 8 bits" in capsys.readouterr().out


def test_images_in_both_splits_are_told(tmp_path, capsys):
    root = coco_folder(tmp_path)
    (root / "images/val").mkdir()
    shutil.copy(root / "images/train/img002.png", root / "images/val/other.png")
    (root / "annotations/instances_val.json").write_text(json.dumps(coco({2: "other.png"})))
    assert main(["data", str(root)]) == 0
    assert "splits train and val share 1 images, such as" in capsys.readouterr().out


def test_the_classes_of_one_split_hold_for_the_others(tmp_path):
    root = yolo_folder(tmp_path, TRAIN + "val: images/train\nnames: [bolt, nut]")
    train, val = read_splits(root, SplitOptions(), classes=["nut", "bolt"])
    assert train.classes == val.classes == ("nut", "bolt")
    assert len(THINGS) == len(train.records)
