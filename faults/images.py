"""Reads image files of every kind, valid and with their bytes changed, as the product does.

    python -m faults.images [--mutations N] [--seed S] [--json FILE]

A mutation cuts a file off, changes some bytes, more often in the header, or inserts some. The file must decode to the
size in its header, or be refused by a message that names it, in bounded time. The memory limit is that of the largest
image allowed (`eyas.data.images.MAX_PIXELS`), which a header of a few bytes can claim.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch  # noqa: F401 (decoding imports it, and its memory is no image's)
from PIL import Image

from eyas.data.formats.records import build_record
from eyas.data.images import MAX_PIXELS, decode, width_and_height
from eyas.types import EyasError
from faults import command_line
from faults.processes import MIB, limited, peak_mib

WIDTH, HEIGHT = 40, 24
SECONDS = 20
GROWTH_MIB = 2 * MAX_PIXELS * 4 / MIB
"""The largest image with four channels, and once more during its conversion to RGB."""

_TURNED = Image.Exif()
_TURNED[0x0112] = 6
_TURNED[0x010E] = "a description of some words"

# Name of the kind, whose suffix is the file's -> mode, Pillow's format, options of `Image.save`.
_STILL: dict[str, tuple[str, str, dict[str, object]]] = {
    "rgb.jpg": ("RGB", "JPEG", {}),
    "progressive.jpg": ("RGB", "JPEG", {"progressive": True}),
    "cmyk.jpg": ("CMYK", "JPEG", {}),
    "grey.jpg": ("L", "JPEG", {}),
    "turned.jpg": ("RGB", "JPEG", {"exif": _TURNED}),
    "rgb.png": ("RGB", "PNG", {}),
    "palette.png": ("P", "PNG", {}),
    "transparent.png": ("RGBA", "PNG", {}),
    "16_bits.png": ("I;16", "PNG", {}),
    "1_bit.png": ("1", "PNG", {}),
    "turned.png": ("RGB", "PNG", {"exif": _TURNED}),
    "rgb.bmp": ("RGB", "BMP", {}),
    "palette.bmp": ("P", "BMP", {}),
    "rgb.webp": ("RGB", "WEBP", {}),
    "turned.webp": ("RGB", "WEBP", {"exif": _TURNED}),
    "rgb.tif": ("RGB", "TIFF", {}),
    "lzw.tif": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "jpeg.tif": ("RGB", "TIFF", {"compression": "jpeg"}),
    "cmyk.tif": ("CMYK", "TIFF", {}),
    "16_bits.tif": ("I;16", "TIFF", {}),
    "turned.tif": ("RGB", "TIFF", {"exif": _TURNED}),
    "palette.gif": ("P", "GIF", {}),
    "rgb.ppm": ("RGB", "PPM", {}),
    "rgb.jp2": ("RGB", "JPEG2000", {}),
}
_FRAMES = {"animated.gif": "GIF", "animated.png": "PNG", "animated.webp": "WEBP", "pages.tif": "TIFF"}


def kinds() -> dict[str, bytes]:
    """A small valid image of every kind."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image, deep = Image.fromarray(noise), Image.new("I;16", (WIDTH, HEIGHT), 999)
    made = {}
    for name, (mode, format, options) in _STILL.items():
        (deep if mode == "I;16" else image.convert(mode)).save(buffer := io.BytesIO(), format, **options)  # type: ignore[arg-type]
        made[name] = buffer.getvalue()
    for name, format in _FRAMES.items():
        more = [Image.new("RGB", (WIDTH, HEIGHT))] * 2
        image.save(buffer := io.BytesIO(), format, save_all=True, append_images=more)
        made[name] = buffer.getvalue()
    return made


def changed(content: bytes, chance: random.Random) -> bytes:
    """The bytes of a file with a random fault."""
    kind = chance.choice(("cut", "bytes", "header", "more"))
    if kind == "cut":
        return content[: chance.randrange(len(content))]
    result = bytearray(content)
    if kind == "more":
        at = chance.randrange(len(result))
        result[at:at] = chance.randbytes(chance.randint(1, 16))
        return bytes(result)
    reach = len(result) if kind == "bytes" else min(len(result), 120)
    for _ in range(chance.randint(1, 8)):
        result[chance.randrange(reach)] = chance.choice((0, 127, 128, 255, chance.randrange(256)))
    return bytes(result)


def attempt(path: Path) -> str:
    """Read a file: returns "read", "refused", or what is wrong."""
    try:
        with limited(SECONDS):
            width, height = width_and_height(path)
            record, _ = build_record("image", path, (width, height), [], path)
            pixels = decode(record)
    except EyasError as error:
        return "refused" if str(path) in str(error) else f"names no file: {error}"
    except Exception as error:
        return repr(error)[:500]
    if tuple(pixels.shape) != (3, height, width) or width * height > MAX_PIXELS:
        return f"{tuple(pixels.shape)} for {width}x{height}"
    return "read"


def fuzz(name: str, content: bytes, folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Count the outcomes of mutations of one file, and list those that are neither read nor refused."""
    path = folder / f"image{Path(name).suffix}"
    outcomes: Counter[str] = Counter()
    failed = []
    for number in range(count):
        path.write_bytes(changed(content, random.Random(f"{seed} {name} {number}")))
        said = attempt(path)
        if said in ("read", "refused"):
            outcomes[said] += 1
        else:
            outcomes["failed"] += 1
            failed.append(f"{number}: {said}")
            print(f"{name} {failed[-1]}", flush=True)
    return outcomes, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when something was not as it must be."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--mutations", type=int, default=1000, help="mutations of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    before, together, rows = peak_mib(), Counter[str](), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in kinds().items():
            outcomes, failed = fuzz(name, content, Path(folder), chosen.mutations, chosen.seed)
            rows[name] = {**outcomes, "failures": failed}
            together += outcomes
            print(f"{name}: {dict(outcomes)}, peak {peak_mib() - before:.0f} MiB above the start", flush=True)
    growth = peak_mib() - before
    print(f"{together.total():,} files, seed {chosen.seed}: {dict(together)}, memory grew by {growth:.0f} MiB")
    result = {"seed": chosen.seed, "mutations of each kind": chosen.mutations, "kinds": rows, "together": together}
    command_line.keep({**result, "grown by MiB": round(growth, 1), "limit MiB": round(GROWTH_MIB)}, chosen.json)
    return int(together["failed"] > 0 or growth > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
