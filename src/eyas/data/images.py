"""Image files: the size from the header alone, and the pixels.

An image is what a viewer shows: the pixels are turned as EXIF says, and the size is that of the turned image. An
annotation that states the stored size was drawn on the stored pixels, and gets them. Pillow always turns TIFF files
itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyas.data.folders import Folders, files_below
from eyas.tools.digests import file_digests
from eyas.tools.files import file_digest
from eyas.tools.shortage import shortage
from eyas.types import EyasError, Record

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000")
"""Pillow's readers that may open a file. Its others start programs (PostScript) or are not for photographs."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jpe", ".jfif", ".apng"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
"""The suffixes that Pillow registers for `FORMATS`, in lower case: those of image files, whatever the case there."""

UNREAD = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".psd", ".tga", ".exr", ".dds", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""The suffixes of photographs that no reader of `FORMATS` decodes, in lower case."""
CONVERT = "its format is not read: convert it to JPEG or PNG"

MAX_PIXELS = 89_478_485
"""Pixels of one image, a quarter of a gigabyte as RGB. A file of a few kilobytes can claim far more."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the turn that shows the image upright. From 5 on, width and height are swapped."""


class ImageError(EyasError):
    """An image file that cannot be used."""

    def __init__(self, message: str) -> None:
        # The parent rebuilds a DataLoader worker's exception with its whole traceback as the message.
        super().__init__(message.rsplit("ImageError: ", 1)[-1].strip())


def width_and_height(path: Path, content: Callable[[], BinaryIO] | None = None) -> tuple[int, int]:
    """(width, height) in pixels of the image that a viewer shows, from the header; ``content`` is that of `Record`.

    Raises `EyasError` naming the file when it is missing, no image, or larger than `MAX_PIXELS`.
    """
    with _opened(path, "cannot be read as an image", content) as image:
        return _seen_size(image.size, _orientation(image))


def content_digests(
    records: Sequence[Record], folder: Path, advance: Callable[[], object], *, same_elsewhere: bool = False
) -> list[bytes]:
    """The SHA-256 of the bytes of each image; those of files as `file_digests` has them, whose arguments these are."""
    paths = [record.path for record in records if record.content is None]
    files = iter(file_digests(paths, folder, advance, same_elsewhere=same_elsewhere))
    found = []
    for record in records:
        found.append(next(files) if record.content is None else content_digest(record))
        if record.content is not None:
            advance()
    return found


def content_digest(record: Record) -> bytes:
    """The SHA-256 of the bytes of an image."""
    if record.content is None:
        return file_digest(record.path)
    return hashlib.sha256(record.content().read()).digest()


def image_bytes(record: Record) -> int:
    """The number of bytes of an image."""
    return os.path.getsize(record.path) if record.content is None else record.content().seek(0, os.SEEK_END)


def decode(record: Record) -> Tensor:
    """The pixels of a record as a tensor, (3, height, width) uint8; details and errors as for `read_pixels`."""
    import torch  # here, so that annotations are read without it

    return torch.from_numpy(read_pixels(record)).permute(2, 0, 1)


def read_pixels(record: Record) -> npt.NDArray[np.uint8]:
    """The pixels of a record, (height, width, 3) uint8, RGB, in the frame that its annotation was drawn in.

    That frame is the image that a viewer shows; a record that states the stored size gets the stored pixels. Only the
    first frame or page is read, and transparency is dropped.

    Raises `EyasError` naming the file when it cannot be decoded, has more than 8 bits per channel, is larger than
    `MAX_PIXELS`, or differs in size from its annotation.
    """
    with _opened(record.path, "cannot be decoded", record.content) as image:
        seen = _check_opened(image, record)
        turn = TURNS.get(_orientation(image))
        pixels = _rgb(image)
        if turn is not None and (record.width, record.height) == seen:
            pixels = pixels.transpose(turn)
        return np.array(pixels)  # not asarray: PyTorch warns of arrays that cannot be written to


def _check_opened(image: Image.Image, record: Record) -> tuple[int, int]:
    """(width, height) as a viewer shows the image. Raises `ImageError` when it cannot be used for the record."""
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        raise ImageError(f"{record.path}: has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
    wanted, seen = (record.width, record.height), _seen_size(image.size, _orientation(image))
    if wanted not in (seen, image.size):
        sizes = f"is {seen[0]}x{seen[1]} pixels, but its annotation says {wanted[0]}x{wanted[1]}"
        raise ImageError(f"{record.path}: {sizes}; correct the annotation, or put back the image that it belongs to")
    return seen


DEEP = re.compile(r"\b(?:L|LA|La|RGB|RGBA|RGBX|RGBa|CMYK);16")
"""Pillow's name of raw pixels of 16 bits per channel; those of BGR;16 have 16 for all three."""


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits per channel, of which Pillow would take the upper ones."""
    of_tiles = [(codec, raw) for codec, _, _, raw in getattr(image, "tile", ())]
    return any(
        DEEP.search(str(raw)) or (codec.startswith("ppm") and isinstance(raw, tuple) and int(raw[1]) > 255)
        for codec, raw in of_tiles
    )


def is_image(path: Path) -> bool:
    """Whether the name is that of an image: it ends in one of `SUFFIXES`, in any case, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted, as `files_below` finds them."""
    return files_below(folder, *SUFFIXES)


def find_image(folder: Path, name: str, folders: Folders | None = None) -> Path:
    """The image ``name`` with any of `SUFFIXES`. Raises `EyasError` when there is none, or are several."""
    wanted = folder / name
    there = (folders or Folders()).of_stem(wanted.parent, wanted.name)
    found = [path for path in there if is_image(path)]
    if len(found) > 1:
        several = " and ".join(path.name for path in found)
        raise EyasError(f"{wanted}: could be {several}; remove one, or rename it")
    unread = [path for path in there if path.suffix.lower() in UNREAD]
    if unread and not found:
        raise EyasError(f"{unread[0]}: {CONVERT}")
    if not found:
        tried = ", ".join(SUFFIXES[:7])
        raise EyasError(f"{wanted}: no image of this name (tried {tried}, ...); restore it, or take it off the list")
    return found[0]


def check_header(record: Record) -> None:
    """What `read_pixels` would refuse, as far as the header of the image file shows it; nothing is decoded.

    Raises `EyasError` naming the file: missing, no image, more than 8 bits per channel, or of another size.
    """
    with _opened(record.path, "cannot be read as an image", record.content) as image:
        _check_opened(image, record)


@contextmanager
def _opened(path: Path, trouble: str, content: Callable[[], BinaryIO] | None) -> Iterator[Image.Image]:
    """Open an image of one of `FORMATS` and at most `MAX_PIXELS`. Every error inside becomes an `ImageError`."""
    if content is None and not os.path.isfile(path):
        raise ImageError(f"{path}: no such image; restore it, or remove its annotations")
    try:
        with warnings.catch_warnings():
            # Silences warnings of odd metadata, and of sizes below the limit here. Errors in the pixels are raised.
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(path if content is None else content(), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(_too_large(path, f"{image.width}x{image.height}"))
                yield image
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageError(_too_large(path, str(error) or "more than memory holds")) from error
    except Exception as error:  # a decoder meets broken files with many kinds, from struct.error to ZeroDivisionError
        if shortage(error) is not None:
            raise  # the file is not to blame
        remedy = CONVERT if path.suffix.lower() in UNREAD else "replace or remove it"
        raise ImageError(f"{path}: {trouble} ({error}); {remedy}") from error


def _too_large(path: Path, size: str) -> str:
    return f"{path}: is too large ({size}; at most {MAX_PIXELS:,} pixels); cut it into tiles, or remove it"


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where it is missing or broken, as in viewers."""
    # Not getexif(), which decodes a whole PNG and believes metadata that viewers ignore.
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        return 1
    exif = Image.Exif()
    try:
        exif.load(block)
        found = exif.get(ORIENTATION, 1)
    except Exception:  # as many kinds as a decoder's; the pixels do not depend on it
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _seen_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    return stored if orientation < 5 else (stored[1], stored[0])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow repaints one colour of the palette
    return image.convert("RGB")
