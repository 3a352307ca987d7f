"""Boxes against the frame, image files, and the small readers that formats share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyas.data.formats.fields import annotation_files
from eyas.data.formats.records import Annotation, build_record, fit_box
from eyas.data.images import decode, find_image, width_and_height
from eyas.types import EyasError

FILE = Path("labels.txt")


def record_of(path: Path, size: tuple[int, int]):
    return build_record("a", path, size, [], FILE)[0]


@pytest.mark.parametrize(
    ("box", "kept", "word"),
    [
        ((0, 0, 20, 10), (0, 0, 20, 10), None),  # the whole frame
        ((-1, 0, 20, 11), (0, 0, 20, 10), None),  # a pixel out: another origin, not worth a word
        ((-1.5, 2, 5, 5), (0, 2, 5, 5), "clipped"),
        ((15, 2, 25, 5), (15, 2, 20, 5), "clipped"),
        ((5, 2, 3, 5), None, "swapped"),
        ((5, 5, 6, 2), None, "swapped"),
        ((5, 2, 5, 5), None, "no area"),
        ((20, 2, 25, 5), None, "outside"),  # touches the edge only
        ((0, -9, 5, -2), None, "outside"),
        ((0, 0, float("nan"), 5), None, "finite"),
        ((0, 0, float("inf"), 5), None, "finite"),
    ],
)
def test_fit_box(box, kept, word):
    found, message = fit_box(box, width=20, height=10)
    assert found == kept
    assert (message is None) if word is None else (word in message)


def test_a_box_that_float32_cannot_tell_from_none_is_dropped():
    # Numbers of float32 are 1/512 apart here: both sides are 20000.
    found, message = fit_box((19999.9993, 0, 20000.0007, 5), width=30_000, height=10)
    assert found is None and "no area" in message


def test_build_record_parts_objects_from_ignore_regions_and_lists_problems_with_their_line():
    annotations = [
        Annotation((1, 2, 3, 4), 1, 7, attributes={"area": 3.5}),
        Annotation((9, 2, 3, 4), 0, 8, attributes={"area": 1.0}, name="dog"),
        Annotation((0, 0, 5, 5), -1, 9, ignore=True),
    ]
    record, problems = build_record("a", Path("a.png"), (20, 10), annotations, FILE)
    assert record.boxes.tolist() == [[1, 2, 3, 4]] and record.labels.tolist() == [1]
    assert record.ignore.tolist() == [[0, 0, 5, 5]] and record.ignore_labels.tolist() == [-1]
    assert record.attributes["area"].tolist() == [3.5]
    assert [str(p) for p in problems] == ["labels.txt:8: dog (9, 2, 3, 4) has swapped corners; dropped"]


def test_a_record_without_boxes_has_arrays_of_the_right_shape():
    record = record_of(Path("a.png"), (20, 10))
    assert record.boxes.shape == record.ignore.shape == (0, 4)
    assert record.labels.dtype == record.ignore_labels.dtype == np.int64


def test_a_list_takes_the_first_word_of_a_flagged_line_and_refuses_repetition(tmp_path):
    path = tmp_path / "train.txt"
    for name in ("a", "b"):
        (tmp_path / f"{name}.xml").touch()
    path.write_text("a 1\n\nb -1\n")
    assert annotation_files(path, tmp_path, ".xml") == {name: tmp_path / f"{name}.xml" for name in ("a", "b")}
    path.write_text("a\nb\na\n")
    with pytest.raises(EyasError, match=r"train\.txt:3: a is already listed on line 1"):
        annotation_files(path, tmp_path, ".xml")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(path)
    pixels = decode(record_of(path, (5, 3)))
    assert pixels.shape == (3, 3, 5) and pixels.dtype == torch.uint8 and bool((pixels == 255).all())


def test_channels_and_axes_keep_their_order(tmp_path):
    array = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert torch.equal(decode(record_of(tmp_path / "a.png", (5, 3))), torch.from_numpy(array).permute(2, 0, 1))


def test_bad_images_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:3000])
    assert width_and_height(cut) == (64, 64)  # the header is intact, so only decoding can tell
    with pytest.raises(EyasError, match=r"cut\.png: cannot be decoded"):
        decode(record_of(cut, (64, 64)))
    with pytest.raises(EyasError, match=r"whole\.png: is 64x64 pixels, but its annotation says 64x63"):
        decode(record_of(whole, (64, 63)))
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(EyasError, match=r"text\.jpg: cannot be read as an image"):
        width_and_height(text)
    with pytest.raises(EyasError, match=r"missing\.png: no such image"):
        width_and_height(tmp_path / "missing.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(EyasError, match=r"deep\.png: has more than 8 bits"):
        decode(record_of(tmp_path / "deep.png", (4, 4)))
    with pytest.raises(EyasError, match="no image of this name"):
        find_image(tmp_path, "absent")
