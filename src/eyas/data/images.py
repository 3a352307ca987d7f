"""Image files: their size from the header alone, and their pixels when a record is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from eyas.types import EyasError, Record

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG", ".BMP")
"""What counts as an image file, in the order in which a name without suffix is looked up."""


class ImageError(EyasError):
    """An image file that cannot be used."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker's exception is made again in the parent with its whole traceback as the message.
        super().__init__(message.rsplit("ImageError: ", 1)[-1].strip())


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header. Raises `EyasError` naming the file."""
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image; restore it, or remove its annotations") from None
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error


def decode(record: Record) -> Tensor:
    """The pixels of a record, (3, height, width) uint8, RGB.

    Pixels are taken as stored: an EXIF rotation is not applied, as in the COCO and VOC tools, whose boxes lie in the
    frame of the stored pixels. Raises `EyasError` naming the file when it cannot be decoded, has more than 8 bits per
    channel, or has another size than its annotation says.
    """
    path = record.path
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ImageError(f"{path}: has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    height, width = pixels.shape[:2]
    if (width, height) != (record.width, record.height):
        raise ImageError(
            f"{path}: is {width}x{height} pixels, but its annotation says {record.width}x{record.height}; correct the "
            "annotation, or store the image without its EXIF rotation"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def find_image(folder: Path, name: str) -> Path:
    """The image ``name`` with any known suffix. Raises `EyasError` when there is none."""
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise EyasError(
        f"{folder / name}: no image of this name (tried {', '.join(SUFFIXES[:7])}); restore it, or take it off the list"
    )
