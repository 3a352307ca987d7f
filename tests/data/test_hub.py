"""Data sets of Hugging Face's ``datasets``: Parquet, `save_to_disk`, in memory; image folders. Nothing is fetched."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

import eyas
from eyas.__main__ import main
from eyas.data import DataSource, SplitOptions, check_images, copies, read, read_splits
from eyas.data.formats.hub import SPEC
from eyas.data.formats.objects import annotations_of, find_columns
from eyas.data.images import content_digests, read_pixels
from eyas.types import EyasError
from helpers.drawn import CLASSES, THINGS, WIDTH, assert_drawn, draw

ALL = range(6)
NAMED = datasets.Features(
    {
        "image": datasets.Image(),
        "objects": {"bbox": [[datasets.Value("float32")]], "category": [datasets.ClassLabel(names=list(CLASSES))]},
    }
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, no cache of the user, and no bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def boxes(number: int, form: str = "xywh") -> list[list[float]]:
    corners = [box for _, box in THINGS[number % len(THINGS)]]
    return [[x1, y1, x2 - x1, y2 - y1] if form == "xywh" else [x1, y1, x2, y2] for x1, y1, x2, y2 in corners]


def kinds(number: int) -> list[int]:
    return [CLASSES.index(name) for name, _ in THINGS[number % len(THINGS)]]


def pixels(folder: Path, number: int, suffix: str = ".png") -> dict[str, Any]:
    path = draw(folder / f"img{number:03}{suffix}", number)
    content = path.read_bytes()
    path.unlink()
    return {"bytes": content, "path": path.name}


def table(folder: Path, numbers: range = ALL, form: str = "xywh", suffix: str = ".png") -> datasets.Dataset:
    rows = {
        "image": [pixels(folder, number, suffix) for number in numbers],
        "objects": [{"bbox": boxes(number, form), "category": kinds(number)} for number in numbers],
    }
    return datasets.Dataset.from_dict(rows, features=NAMED)


def parquet(root: Path, form: str = "xywh") -> Path:
    for split, numbers in (("train", range(5)), ("validation", range(4, 6))):
        (root / "data").mkdir(parents=True, exist_ok=True)
        table(root, numbers, form).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def image_folder(root: Path, numbers: range = ALL, form: str = "xywh", *, nested: bool = True) -> Path:
    lines = []
    for number in numbers:
        name = draw(root / f"img{number:03}.png", number).name
        lists = {"bbox": boxes(number, form), "categories": kinds(number)}
        lines.append(json.dumps({"file_name": name, **({"objects": lists} if nested else lists)}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def on_files(source: DataSource, folder: Path) -> DataSource:
    """The same records on files, for a look at their pixels."""
    records = []
    for record in source.records:
        path = folder / f"{source.split}-{record.image_id.replace('/', '-')}.png"
        folder.mkdir(exist_ok=True)
        Image.fromarray(read_pixels(record)).save(path)
        records.append(replace(record, path=path))
    return replace(source, records=tuple(records))


# Parquet and what `datasets` saves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_a_folder_of_parquet_is_read_in_the_form_that_is_given(tmp_path, form):
    root = parquet(tmp_path / "set", form)
    train, val = read_splits(root, SplitOptions(boxes=form))
    for source, count, objects in ((train, 5, 7), (val, 2, 1)):
        assert source.format == "hf" and source.classes == CLASSES and not source.problems and not source.warnings
        assert_drawn(on_files(source, tmp_path / "pixels"), count, objects)
        assert not check_images(source)
    assert copies([train, val]) == [
        f"splits train and val share 1 images, such as {root}/train/4/img004.png and {root}/validation/0/img004.png: "
        "a score on one is too good"
    ]


def test_the_form_is_asked_for_with_both_readings(tmp_path):
    root = parquet(tmp_path / "set")
    said = (
        r"whether a box such as \[32, 7, 30, 14\] is x, y, width, height \(7 of the first 7 are inside their images "
        r"then\) or x1, y1, x2, y2 \(1 are\); give xywh or xyxy by --dataset\.boxes"
    )
    with pytest.raises(EyasError, match=said):
        read(root, "train")
    with pytest.raises(EyasError, match=r"boxes must be xywh or xyxy, got 'cxcywh'"):
        SplitOptions(boxes="cxcywh")  # type: ignore[arg-type]


def test_a_wrong_form_is_doubted(tmp_path):
    source = read(parquet(tmp_path / "set"), "train", boxes="xyxy")
    assert len(source.problems) == 7 - sum(len(record.boxes) for record in source.records)
    assert "records or boxes are dropped or clipped" in source.warnings[0]


def test_other_formats_say_how_their_boxes_are_written(tmp_path):
    eyas.data.write_coco(
        tmp_path, "train", CLASSES, [("a", np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int))]
    )
    with pytest.raises(
        EyasError, match=r"coco files have \[x, y, width, height\] in pixels; leave out --dataset\.boxes"
    ):
        read(tmp_path, "train", boxes="xywh")


def test_what_datasets_saves_is_read(tmp_path):
    table(tmp_path, range(5)).save_to_disk(tmp_path / "one")
    assert_drawn(on_files(read(tmp_path / "one", "train", boxes="xywh"), tmp_path / "pixels"), 5, 7)
    both = datasets.DatasetDict({"train": table(tmp_path, range(5)), "validation": table(tmp_path, range(4, 6))})
    both.save_to_disk(tmp_path / "two")
    train, val = read_splits(tmp_path / "two", SplitOptions(boxes="xywh"))
    assert (len(train.records), len(val.records)) == (5, 2)
    with pytest.raises(EyasError, match=r"has no split 'test' \(hf format\); the splits there are: train, validation"):
        read(tmp_path / "two", "test", boxes="xywh")


def test_a_part_is_held_out_where_there_is_one_split(tmp_path):
    table(tmp_path).save_to_disk(tmp_path / "one")
    train, val = read_splits(tmp_path / "one", SplitOptions(boxes="xywh"))
    assert (len(train.records), len(val.records)) == (5, 1) and "is held out" in val.warnings[0]
    digests = {one for source in (train, val) for one in content_digests(source.records, tmp_path, lambda: None)}
    assert len(digests) == 6


# A data set in memory ------------------------------------------------------------------------------------------------


def test_lists_of_objects_and_columns_of_lists_are_the_same(tmp_path):
    plain = [pixels(tmp_path, number) for number in ALL]
    form = {"bbox": [datasets.Value("int64")], "category": datasets.Value("string"), "iscrowd": datasets.Value("bool")}
    entries = [
        [
            {"bbox": box, "category": CLASSES[kind], "iscrowd": False}
            for box, kind in zip(boxes(n), kinds(n), strict=True)
        ]
        for n in ALL
    ]
    listed = datasets.Dataset.from_dict(
        {"picture": plain, "objects": entries},
        features=datasets.Features({"picture": datasets.Image(), "objects": datasets.List(form)}),
    )
    columns = datasets.Dataset.from_dict(
        {"image": plain, "bboxes": [boxes(n) for n in ALL], "label": [[CLASSES[k] for k in kinds(n)] for n in ALL]}
    ).cast_column("image", datasets.Image())
    for made in (listed, columns):
        assert_drawn(on_files(eyas.from_hf(made, "xywh"), tmp_path / "pixels"), 6, 7)


def test_crowd_and_area_are_read(tmp_path):
    objects = {"bbox": [[1, 2, 10, 10], [0, 0, 20, 20]], "category": [4, 9], "iscrowd": [0, 1], "area": [55.0, 400.0]}
    made = datasets.Dataset.from_dict({"image": [pixels(tmp_path, 5)], "objects": [objects]})
    source = eyas.from_hf(made.cast_column("image", datasets.Image()), "xywh")
    (record,) = source.records
    assert source.classes == ("4", "9") and "the classes have no names, only numbers" in source.warnings[0]
    assert record.boxes.tolist() == [[1, 2, 11, 12]] and record.attributes["area"].tolist() == [55]
    assert record.ignore.tolist() == [[0, 0, 20, 20]] and record.ignore_labels.tolist() == [1]


@pytest.mark.parametrize(("crowd", "plain"), [(True, False), ("true", "False"), (1.0, 0), ("1", None)])
def test_a_crowd_is_one_however_the_flag_is_written(crowd, plain):
    lists = {"bbox": [[1, 2, 10, 10], [0, 0, 20, 20]], "category": [0, 0], "iscrowd": [plain, crowd]}
    columns = find_columns(lists, "x")
    assert columns is not None
    found = annotations_of(lists, columns, "xywh", lambda *_: 0, "image 0")
    assert [one.ignore for one in found] == [False, True]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"iscrowd": ["yes"]}, "image 0 has iscrowd 'yes'; write 0 or 1"),
        ({"iscrowd": [[1]]}, r"image 0 has iscrowd \[1\]; write 0 or 1"),
        ({"area": [-1]}, "image 0 has the area -1; write its pixels"),
        ({"area": [math.nan]}, "image 0 has the area nan; write its pixels"),
    ],
)
def test_flags_and_areas_that_are_none_are_refused(more, said):
    lists = {"bbox": [[1, 2, 10, 10]], "category": [0], **more}
    columns = find_columns(lists, "x")
    assert columns is not None
    with pytest.raises(EyasError, match=said):
        annotations_of(lists, columns, "xywh", lambda *_: 0, "image 0")


def test_a_line_ends_at_a_newline_alone(tmp_path):
    """JSON may hold U+2028 and U+0085 in a text."""
    root = image_folder(tmp_path / "set")
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    written = [json.dumps({**line, "caption": "a\u2028b\u0085c"}, ensure_ascii=False) for line in lines]
    (root / "metadata.jsonl").write_text("\r\n".join(written), encoding="utf-8")
    assert len(read(root, "all", boxes="xywh").records) == len(lines)


def test_classes_that_are_numbers_get_names_by_the_option(tmp_path):
    root = image_folder(tmp_path / "set")
    source = read(root, "all", boxes="xywh", classes={"bolt": ["0"], "nut": ["1"]})
    assert_drawn(source, 6, 7)


def test_what_is_no_detection_data_is_refused(tmp_path):
    made = table(tmp_path)
    with pytest.raises(EyasError, match=r"no column is of images \(objects\)"):
        eyas.from_hf(made.remove_columns("image"), "xywh")
    with pytest.raises(EyasError, match=r"no column has boxes \(image\)"):
        eyas.from_hf(made.remove_columns("objects"), "xywh")
    with pytest.raises(EyasError, match="image, thumb are columns of images"):
        eyas.from_hf(
            made.add_column("thumb", [pixels(tmp_path, n) for n in ALL]).cast_column("thumb", datasets.Image()), "xywh"
        )
    twice = made.add_column("faces", [{"bbox": [], "label": []}] * 6, feature=None)
    with pytest.raises(EyasError, match="objects and faces have boxes"):
        eyas.from_hf(twice, "xywh")
    with pytest.raises(EyasError, match=r"load it without streaming=True; images then stay on disk"):
        eyas.from_hf(made.to_iterable_dataset(), "xywh")
    with pytest.raises(EyasError, match=r"takes a datasets\.Dataset, one split, not a DatasetDict"):
        eyas.from_hf(datasets.DatasetDict({"train": made}), "xywh")
    with pytest.raises(EyasError, match="boxes must be xywh or xyxy, got 'voc'"):
        eyas.from_hf(made, "voc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"bbox": [[1, 2, 3, 4]], "category": []}, r"image 0 has 1 boxes and 0 classes; write one class for each"),
        ({"bbox": [[1, 2, 3]], "category": [0]}, r"image 0 has the box \[1\.0, 2\.0, 3\.0\]; write four numbers"),
        ({"bbox": [[1, 2, 3, 4]], "category": [-1]}, r"image 0 has the class -1; the data set has the classes 0 to 1"),
    ],
)
def test_boxes_and_classes_that_do_not_fit_are_named(tmp_path, objects, said):
    made = datasets.Dataset.from_dict({"image": [pixels(tmp_path, 0)], "objects": [objects]}, features=NAMED)
    with pytest.raises(EyasError, match=said):
        eyas.from_hf(made, "xywh")


def test_an_image_is_opened_in_another_process_without_its_data(tmp_path):
    """What travels to a worker names the files; the images are not in it."""
    source = read(parquet(tmp_path / "set"), "train", boxes="xywh")
    sent = pickle.dumps(source.records)
    assert len(sent) < 20_000
    record = pickle.loads(sent)[3]
    assert (read_pixels(record) == read_pixels(source.records[3])).all()
    memory = eyas.from_hf(table(tmp_path), "xywh").records[3]
    assert (read_pixels(pickle.loads(pickle.dumps(memory))) == read_pixels(record)).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_every_kind_of_image_is_decoded_from_its_bytes(tmp_path, suffix):
    record = eyas.from_hf(table(tmp_path, suffix=suffix), "xywh").records[1]
    cell = table(tmp_path, suffix=suffix).with_format("arrow")[1]["image"][0].as_py()
    with Image.open(BytesIO(cell["bytes"])) as image:
        assert (read_pixels(record) == np.asarray(image.convert("RGB"))).all()
    assert record.width == WIDTH and record.path.name == f"img001{suffix}"


def test_images_that_are_files_stay_files(tmp_path):
    files = [str(draw(tmp_path / f"{number}.png", number)) for number in ALL]
    made = datasets.Dataset.from_dict(
        {"image": files, "objects": [{"bbox": boxes(n), "category": kinds(n)} for n in ALL]}, features=NAMED
    )
    source = eyas.from_hf(made, "xywh", "val")
    assert source.split == "val" and source.records[0].content is None
    assert_drawn(source, 6, 7)


def test_names_of_the_hub():
    found = {text: SPEC.fullmatch(text) for text in ("hf:a/b", "hf:a/b:c", "hf:a/b@v1", "hf:a/b:c@v1", "hf:b")}
    assert [one and one.group("name", "config", "revision") for one in found.values()] == [
        *(("a/b", None, None), ("a/b", "c", None), ("a/b", None, "v1"), ("a/b", "c", "v1"), None)
    ]


def test_the_hub_is_asked_for_what_was_typed(tmp_path, monkeypatch):
    asked = []

    def load(name: str, config: str | None, revision: str | None) -> Any:
        asked.append((name, config, revision))
        return datasets.DatasetDict({"default": table(tmp_path)})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = read(Path("hf:org/name:parts@v2"), "default", boxes="xywh")
    assert set(asked) == {("hf://datasets/org/name", "parts", "v2")}
    assert str(source.root) == "hf:org/name:parts@v2" and len(source.records) == 6


def test_a_data_set_that_cannot_be_loaded_is_one_message(tmp_path):
    with pytest.raises(EyasError, match=r"^hf:org/none: datasets cannot load it \("):
        read(Path("hf:org/none"), "train", boxes="xywh")
    with pytest.raises(EyasError, match=r"^hf:org name: write hf:ORG/NAME"):
        read(Path("hf:org name"), "train", boxes="xywh")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(EyasError, match=r"datasets cannot load it"):
        read(tmp_path, "train", boxes="xywh")


# Image folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
@pytest.mark.parametrize("nested", [True, False])
def test_an_image_folder_is_one_split(tmp_path, form, nested):
    source = read(
        image_folder(tmp_path, form=form, nested=nested), "all", boxes=form, classes={"bolt": ["0"], "nut": ["1"]}
    )
    assert source.format == "imagefolder" and not source.warnings and not source.problems
    assert_drawn(source, 6, 7)


def test_image_folders_of_splits(tmp_path):
    for split, numbers in (("train", range(5)), ("validation", range(4, 6))):
        image_folder(tmp_path / split, numbers)
    train, val = read_splits(tmp_path, SplitOptions(boxes="xywh"))
    assert [len(source.records) for source in (train, val)] == [5, 2]
    assert train.classes == val.classes == ("0", "1"), "val has nuts alone"


def test_one_file_for_the_folders_of_splits(tmp_path):
    lines = []
    for split, numbers in (("train", range(5)), ("test", range(4, 6))):
        image_folder(tmp_path / split, numbers)
        text = (tmp_path / split / "metadata.jsonl").read_text()
        lines += [
            json.dumps({**json.loads(line), "file_name": f"{split}/{json.loads(line)['file_name']}"})
            for line in text.splitlines()
        ]
        (tmp_path / split / "metadata.jsonl").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert [len(read(tmp_path, split, boxes="xywh").records) for split in ("train", "test")] == [5, 2]


def test_an_image_without_a_line_is_told_and_a_line_without_an_image_refused(tmp_path):
    image_folder(tmp_path)
    draw(tmp_path / "more.png", 0)
    assert "1 images have no line in" in read(tmp_path, "all", boxes="xywh").warnings[1]
    (tmp_path / "img003.png").unlink()
    with pytest.raises(EyasError, match=r"metadata\.jsonl:4: img003\.png is not in"):
        read(tmp_path, "all", boxes="xywh")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"metadata\.jsonl:7: broken JSON"),
        ("{}", r":7: has no file_name"),
        ('{"file_name": "img000.png"}', r":7: img000\.png has a line before"),
        ('{"file_name": "../x.png", "objects": {"bbox": [], "categories": []}}', r":7 names .* which is outside"),
        ('{"file_name": "x.png", "objects": 5}', r":7 has the objects 5; write lists"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    image_folder(tmp_path)
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(EyasError, match=said):
        read(tmp_path, "all", boxes="xywh")


def test_an_image_folder_asks_for_the_form(tmp_path):
    with pytest.raises(EyasError, match=r"x, y, width, height \(7 of the first 7 .*\(1 are\); give xywh or xyxy"):
        read(image_folder(tmp_path), "all")


def test_metadata_without_boxes_is_no_data_set(tmp_path):
    draw(tmp_path / "a.png", 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a nut"}\n')
    with pytest.raises(
        EyasError, match=r"metadata\.jsonl is that of a Hugging Face image folder, whose first line has no"
    ):
        read(tmp_path, "all")


# The commands --------------------------------------------------------------------------------------------------------


def test_the_summary_names_the_splits_as_they_are(tmp_path, capsys):
    datasets.DatasetDict({"default": table(tmp_path)}).save_to_disk(tmp_path / "set")
    assert main(["data", str(tmp_path / "set"), "--boxes", "xywh", "--split", "default"]) == 0
    assert "hf format, split default\n6 images (1 without objects), 7 objects" in capsys.readouterr().out
    assert main(["data", str(tmp_path / "set"), "--boxes", "xywh", "--images", "--draw", str(tmp_path / "drawn")]) == 0
    assert "is held out" in capsys.readouterr().out and (tmp_path / "drawn/train.png").is_file()
    assert main(["data", str(tmp_path / "set")]) == 2
    assert "give xywh or xyxy by --dataset.boxes (`eyas data`" in capsys.readouterr().err


def test_predict_says_which_command_takes_a_data_set(tmp_path, capsys):
    assert main(["predict", "run", "hf:org/name", f"--out={tmp_path / 'out'}"]) == 2
    assert (
        "predict takes image files; the detections in a data set are written by eyas evaluate"
        in capsys.readouterr().err
    )
