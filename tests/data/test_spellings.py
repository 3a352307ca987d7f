"""Names in another case, hidden files, links, encodings: what a folder looks like after Windows, macOS and archives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eyas.data import SplitOptions, read, read_splits
from eyas.data.folders import Folders, files_below, files_in
from eyas.data.images import find_image
from eyas.types import EyasError
from helpers.drawn import assert_drawn, coco, draw, voc, yolo

NUMBERS = range(6)
NAMES = "names: [bolt, nut]\n"
KITTI = "Car 0 0 0 32 7 62 21 -1 -1 -1 -1000 -1000 -1000 -10\n"


def write(path: Path, content: object, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(encoding))
    return path


def images(folder: Path, suffix: str = ".png") -> dict[int, str]:
    return {number: draw(folder / f"img{number:03}{suffix}", number).name for number in NUMBERS}


def yolo_folder(root: Path, suffix: str = ".txt", folders: tuple[str, str] = ("images", "labels")) -> Path:
    for number, name in images(root / folders[0]).items():
        write(root / folders[1] / f"{Path(name).stem}{suffix}", yolo(number))
    write(root / "data.yaml", f"train: {folders[0]}\n{NAMES}")
    return root


def voc_folder(root: Path, suffix: str = ".xml", folders: tuple[str, str] = ("JPEGImages", "Annotations")) -> Path:
    for number, name in images(root / folders[0]).items():
        write(root / folders[1] / f"{Path(name).stem}{suffix}", voc(number, name))
    return root


def coco_folder(root: Path, change: Callable[[str], str] = str, name: str = "annotations/instances_train.json") -> Path:
    write(root / name, coco({number: change(name) for number, name in images(root / "images").items()}))
    return root


def renamed(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


SPELLINGS: dict[str, Callable[[Path], object]] = {
    "YOLO .TXT": lambda root: yolo_folder(root, ".TXT"),
    "YOLO folders in capitals": lambda root: yolo_folder(root, folders=("IMAGES", "LABELS")),
    "YOLO folders in two cases": lambda root: yolo_folder(root, folders=("images", "Labels")),
    "YOLO entry in another case": lambda root: write(yolo_folder(root) / "data.yaml", "train: Images\n" + NAMES),
    "YOLO Data.YAML": lambda root: renamed(yolo_folder(root) / "data.yaml", "Data.YAML"),
    "VOC .XML": lambda root: voc_folder(root, ".XML"),
    "VOC folders in small letters": lambda root: voc_folder(root, folders=("jpegimages", "annotations")),
    "VOC beside the images": lambda root: voc_folder(root, ".XML", folders=("", "")),
    "VOC folder xmls": lambda root: voc_folder(root, folders=("images", "xmls")),
    "COCO .JSON": lambda root: coco_folder(root, name="Annotations/instances_train.JSON"),
    "COCO names in capitals": lambda root: coco_folder(root, str.upper),
    "COCO quoted names": lambda root: coco_folder(root, lambda name: name.replace("g", "%67")),
    "COCO file address": lambda root: coco_folder(root, "file:///mnt/me/set/{}".format),
    "COCO address": lambda root: coco_folder(root, "http://localhost:8080/data/local-files/?d=set/{}".format),
}


@pytest.mark.parametrize("make", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_names_in_another_case_are_found(tmp_path, make):
    make(tmp_path)
    train, val = read_splits(tmp_path, SplitOptions())
    assert len(train.records) + len(val.records) == 6
    assert_drawn(train, 5, 7 - sum(len(record.boxes) for record in val.records))
    assert not train.problems and not train.warnings


def test_the_spelling_that_is_written_comes_first(tmp_path):
    for name in ("a.txt", "A.txt", "b/C.txt", "b/c.TXT"):
        write(tmp_path / name, name)
    folders = Folders()
    assert folders.find(tmp_path / "a.txt") == tmp_path / "a.txt"
    assert folders.find(tmp_path / "a.TXT") is None  # could be two
    assert folders.find(tmp_path / "B/C.txt") is None  # could be two
    assert folders.find(tmp_path / "B") == tmp_path / "b"
    assert folders.find(tmp_path / "none/c.txt") is None
    assert folders.find(tmp_path / ("x" * 5000)) is None


def test_two_images_of_one_name_are_told_apart_or_refused(tmp_path):
    root = voc_folder(tmp_path)
    draw(root / "JPEGImages/img000.jpg", 1)
    assert_drawn(read(root, "all"), 6, 7)  # <filename> says which
    with pytest.raises(EyasError, match=r"img000: could be img000\.jpg and img000\.png; remove one"):
        find_image(root / "JPEGImages", "img000")
    yolo_folder(tmp_path / "yolo")
    draw(tmp_path / "yolo/images/img000.jpg", 1)
    (warning,) = read(tmp_path / "yolo", "train").warnings
    assert "img000.txt is the label file of img000.jpg and img000.png" in warning


@pytest.mark.parametrize("make", [yolo_folder, voc_folder, coco_folder])
def test_what_systems_leave_behind_is_passed_over(tmp_path, make):
    make(tmp_path)
    for path in [*tmp_path.rglob("*")]:
        if path.is_file():
            for junk in (path.with_name(f"._{path.name}"), tmp_path / "__MACOSX" / f"._{path.name}"):
                junk.parent.mkdir(exist_ok=True)
                junk.write_bytes(b"\x00\x05\x16\x07\x00\x02")
    for folder in {path.parent for path in [*tmp_path.rglob("*.*")]}:
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / name).write_bytes(b"\x00\xff")
    train, val = read_splits(tmp_path, SplitOptions())
    assert (len(train.records), len(val.records)) == (5, 1)
    assert not train.problems and not train.warnings and len(val.warnings) == 1


def test_kitti_without_lists_passes_hidden_files_over_and_names_images_without_labels(tmp_path):
    for number in NUMBERS:
        draw(tmp_path / "image_2" / f"{number:06}.png", number)
        write(tmp_path / "label_2" / f"{number:06}.TXT", KITTI.lower() + "TRUCK" + KITTI[3:])
    (tmp_path / "label_2/._000000.txt").write_bytes(b"\x00")
    (tmp_path / "label_2/000005.TXT").unlink()
    source = read(tmp_path, "all")
    assert [record.labels.tolist() for record in source.records] == [[0]] * 5
    (warning,) = source.warnings
    assert "1 images have no annotation file" in warning and "000005.png" in warning


def test_links_to_folders_are_followed_once(tmp_path):
    store = yolo_folder(tmp_path / "store")
    root = tmp_path / "set"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
        (root / name / "day").symlink_to(store / name)
    (root / "images/day/again").symlink_to(root / "images")
    write(root / "data.yaml", "train: images\n" + NAMES)
    assert_drawn(read(root, "train"), 6, 7)
    assert len(files_below(root, ".png")) == 6 and files_in(root / "images", ".png") == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_text_with_a_byte_order_mark_is_read(tmp_path, encoding):
    for make, name in ((yolo_folder, "yolo"), (voc_folder, "voc"), (coco_folder, "coco")):
        root = make(tmp_path / name)
        for path in [*root.rglob("*")]:
            if path.suffix in (".txt", ".xml", ".json", ".yaml") and path.stat().st_size:
                path.write_bytes(path.read_text().encode(encoding))
        train, val = read_splits(root, SplitOptions())
        assert_drawn(train, 5, 7 - sum(len(record.boxes) for record in val.records))


@pytest.mark.parametrize(("encoding", "name"), [("gb2312", "\u87ba\u6bcd"), ("ISO-8859-1", "\u00d6se")])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path, encoding, name):
    root = voc_folder(tmp_path)
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + voc(0, "img000.png").replace("nut", name)
    write(root / "Annotations/img000.xml", text, encoding)
    assert name in read(root, "all").classes
    write(root / "Annotations/img000.xml", text, "utf-8")  # declared, but not written
    assert name in read(root, "all").classes
    write(root / "Annotations/img000.xml", text.replace(encoding, "no-such"), encoding)
    with pytest.raises(EyasError, match=r"img000\.xml:1: is not UTF-8 text"):
        read(root, "all")


def test_text_in_an_encoding_that_nothing_names_is_refused(tmp_path):
    root = yolo_folder(tmp_path)
    write(root / "data.yaml", "train: images\nnames: [\u00d6se, nut]\n", "latin-1")
    with pytest.raises(EyasError, match=r"data\.yaml:2: is not UTF-8 text; save the file as UTF-8"):
        read(root, "train")


@pytest.mark.parametrize("form", ["JPEGImages/{}.png", "JPEGImages/{0}.png Annotations/{0}.xml", "/home/me/x/{}.png"])
def test_lists_may_have_paths(tmp_path, form):
    root = voc_folder(tmp_path)
    lines = "".join(form.format(f"img{number:03}") + "\n" for number in NUMBERS)
    for place in ("ImageSets/Main/train.txt", "ImageSets/train.txt", "train.txt"):
        listed = write(root / place, lines)
        assert_drawn(read(root, "train"), 6, 7)
        listed.unlink()


def test_lists_beside_the_annotations_keep_the_splits_apart(tmp_path):
    root = voc_folder(tmp_path)
    write(root / "train.txt", "img000\nimg001\n")
    write(root / "val.txt", "img002\n")
    assert [len(source.records) for source in read_splits(root, SplitOptions())] == [2, 1]


def test_lists_beside_labels_of_yolo_are_none_of_voc(tmp_path):
    root = yolo_folder(tmp_path)
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "bolt\nnut\n")
    write(root / "train.txt", "".join(f"images/img{number:03}.png\n" for number in NUMBERS))
    assert_drawn(read(root, "train"), 6, 7)


def test_folders_of_splits_with_their_own_annotations(tmp_path):
    for split in ("train", "Valid"):
        voc_folder(tmp_path / split, folders=("images", "annotations"))
    for source in read_splits(tmp_path, SplitOptions()):
        assert_drawn(source, 6, 7)


def test_darknet_lists_of_any_case_are_splits(tmp_path):
    for name in ("Train", "Validation"):
        for number, file in images(tmp_path / f"obj_{name}_data").items():
            write(tmp_path / f"obj_{name}_data/{Path(file).stem}.txt", yolo(number))
        lines = "".join(f"data/obj_{name}_data/img{number:03}.png\n" for number in NUMBERS)
        write(tmp_path / f"{name}.txt", lines)
    write(tmp_path / "obj.names", "bolt\nnut\n")
    for source in read_splits(tmp_path, SplitOptions()):
        assert_drawn(source, 6, 7)
