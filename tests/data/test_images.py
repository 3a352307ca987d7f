"""Image files of every kind: decoded as a viewer shows them, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eyas.data import read
from eyas.data.formats.records import build_record
from eyas.data.images import MAX_PIXELS, ImageError, check_header, decode, width_and_height
from eyas.types import EyasError, Record

WIDTH, HEIGHT = 40, 24
SPOT = (3, 5, 13, 11)
"""xyxy of what is white in an image as it is seen; the rest is black."""
# The stored pixels of each EXIF orientation, from those seen: what undoes the turn that the viewer makes.
STORED: dict[int, Any] = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: seen.transpose(1, 0, 2)[::-1],
    7: lambda seen: seen.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda seen: seen.transpose(1, 0, 2)[:, ::-1],
}


def seen() -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    x1, y1, x2, y2 = SPOT
    pixels[y1:y2, x1:x2] = 255
    return pixels


def record(path: Path, size: tuple[int, int] | None = None) -> Record:
    return build_record("1", path, size or width_and_height(path), [], path)[0]


def turned(path: Path, orientation: int) -> Path:
    """A file that a viewer shows as `seen`."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](seen())))
    image.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_boxes_lie_on_what_the_user_sees(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = turned(tmp_path / f"a.{suffix}", orientation)
    assert width_and_height(path) == (WIDTH, HEIGHT)
    image = decode(record(path)).float() / 255
    x1, y1, x2, y2 = SPOT
    assert image.shape == (3, HEIGHT, WIDTH)
    assert float(image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min()) > 0.8
    assert float(image.sum()) == pytest.approx(3 * (x2 - x1) * (y2 - y1), rel=0.05), "and on nothing else"


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_annotation_of_the_stored_pixels_gets_those(tmp_path: Path, orientation: int) -> None:
    path = turned(tmp_path / "a.png", orientation)
    image = decode(record(path, (HEIGHT, WIDTH)))
    assert torch.equal(image, torch.from_numpy(STORED[orientation](seen()).copy()).permute(2, 0, 1))


def test_a_size_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.png", 6)
    with pytest.raises(ImageError, match=r"a\.png: is 40x24 pixels, but its annotation says 41x24"):
        decode(record(path, (41, 24)))


def test_a_broken_orientation_is_none(tmp_path: Path) -> None:
    Image.fromarray(seen()).save(tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01")
    assert decode(record(tmp_path / "a.png")).shape == (3, HEIGHT, WIDTH)


KINDS: dict[str, tuple[str, str]] = {
    "greyscale": ("L", "png"),
    "greyscale with alpha": ("LA", "png"),
    "palette": ("P", "png"),
    "alpha": ("RGBA", "png"),
    "one bit": ("1", "png"),
    "CMYK": ("CMYK", "jpg"),
    "CMYK TIFF": ("CMYK", "tif"),
    "YCbCr": ("YCbCr", "jpg"),
    "greyscale JPEG": ("L", "jpg"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_pixels(tmp_path: Path, kind: str) -> None:
    mode, suffix = KINDS[kind]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(seen()).convert(mode).save(path, **({"quality": 100} if suffix == "jpg" else {}))
    image = decode(record(path)).float() / 255
    x1, y1, x2, y2 = SPOT
    assert image.shape == (3, HEIGHT, WIDTH)
    assert float(image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min()) > 0.8
    assert float(image[:, : y1 - 2].max()) < 0.2


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_8_bits_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (WIDTH, HEIGHT)).save(path)
    with pytest.raises(ImageError, match=r"a\.tif: has more than 8 bits per channel"):
        decode(record(path))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(kind: int, channels: int) -> bytes:
    """A PNG of 16 bits per channel, as a sensor of 12 bits fills it."""
    row = b"\0" + struct.pack(">H", 4095) * WIDTH * channels
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * HEIGHT)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("colour.png", deep_png(2, 3)),
        ("transparent.png", deep_png(6, 4)),
        ("grey and transparent.png", deep_png(4, 2)),
        ("a.ppm", b"P6 %d %d 4095\n" % (WIDTH, HEIGHT) + struct.pack(">H", 4095) * WIDTH * HEIGHT * 3),
    ],
)
def test_more_than_8_bits_of_colour_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Pillow opens them as 8 bits, of which 4095 is 15 in a PNG."""
    path = tmp_path / name
    path.write_bytes(content)
    for look in (decode, check_header):
        with pytest.raises(ImageError, match="has more than 8 bits per channel"):
            look(record(path))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b.ppm")
    (tmp_path / "c.pbm").write_bytes(b"P1 %d %d\n" % (WIDTH, HEIGHT) + b"0 " * WIDTH * HEIGHT)
    (tmp_path / "d.bmp").write_bytes(bmp_565())
    for good in ("b.ppm", "c.pbm", "d.bmp"):
        check_header(record(tmp_path / good))


def bmp_565() -> bytes:
    """A bitmap of 16 bits per pixel: five, six and five of a channel."""
    row = (b"\x1f\xf8" * WIDTH).ljust(-(-2 * WIDTH // 4) * 4, b"\0")
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(row) * HEIGHT, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(info) + len(masks)
    return struct.pack("<2sIHHI", b"BM", start + len(row) * HEIGHT, 0, 0, start) + info + masks + row * HEIGHT


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    more = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(seen()).save(path, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))] * 3, **more)
    image = decode(record(path))
    assert torch.equal(image, torch.from_numpy(seen()).permute(2, 0, 1))


def bomb(path: Path) -> None:
    """A PNG of some bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def halved(path: Path) -> None:
    turned(path, 1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Any, str]] = {
    "0 bytes": (lambda path: path.write_bytes(b""), "cannot be"),
    "text": (lambda path: path.write_text("<html>404</html>"), "cannot be"),
    "half of it": (halved, "cannot be decoded"),
    "missing": (lambda path: None, "no such image"),
    "a loop of links": (lambda path: path.symlink_to(path), "no such image"),
    "a folder": (lambda path: path.mkdir(), "no such image"),
    "a bomb": (bomb, f"too large .*at most {MAX_PIXELS:,} pixels"),
    "PostScript": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot be"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    make, said = BROKEN[fault]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(ImageError, match=rf"a\.png: .*{said}"):
        decode(record(path, (WIDTH, HEIGHT)))


def test_a_turned_photograph_in_a_data_set(tmp_path: Path) -> None:
    """The size of a YOLO image is that of the image that is seen, and so are its boxes."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    turned(tmp_path / "images" / "a.jpg", 6)
    x1, y1, x2, y2 = SPOT
    label = f"0 {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}\n"
    (tmp_path / "labels" / "a.txt").write_text(label)
    (tmp_path / "data.yaml").write_text("names: [spot]\ntrain: images\n")
    (found,) = read(tmp_path, "train").records
    assert found.boxes.tolist() == [pytest.approx(SPOT, abs=1e-4)]
    assert float(decode(found)[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().min()) > 200


def test_every_refusal_is_an_error_of_eyas() -> None:
    assert issubclass(ImageError, EyasError)
