"""The extent of a COCO segmentation: polygons, or a run-length encoded mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from eyas.data.formats import fields
from eyas.data.formats.records import Box
from eyas.types import EyasError

NO_BOX = (math.nan,) * 4
"""What `fit_box` drops and lists."""


def extent(segmentation: Any, where: str) -> Box:
    """The box (x1, y1, x2, y2) around a segmentation, in pixels; not finite where it has no pixel.

    Raises `EyasError` that begins with ``where`` when it is neither polygons ``[[x1, y1, x2, y2, ...], ...]`` nor a
    mask ``{"size": [height, width], "counts": ...}``.
    """
    if isinstance(segmentation, dict):
        return _mask_extent(segmentation, where)
    polygons: list[Any] = segmentation if isinstance(segmentation, list) else [None]
    if not any(isinstance(polygon, list) for polygon in polygons):
        polygons = [segmentation]  # one polygon, as VIA writes it
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise EyasError(f"{where} has the segmentation {fields.shown(segmentation)}; write polygons, a mask or a bbox")
    if any(len(polygon) % 2 for polygon in polygons):
        raise EyasError(f"{where} has a polygon with an odd count of numbers; write x and y of every point")
    xs = [fields.real(value, f"{where} has a polygon with") for polygon in polygons for value in polygon[0::2]]
    ys = [fields.real(value, f"{where} has a polygon with") for polygon in polygons for value in polygon[1::2]]
    if not xs or not all(map(math.isfinite, (*xs, *ys))):
        return NO_BOX
    return (min(xs), min(ys), max(xs), max(ys))


def _mask_extent(mask: dict[str, Any], where: str) -> Box:
    """The extent of the 1s of a mask: runs of 0s and 1s in turn, down one column after the other."""
    size, counts = mask.get("size"), mask.get("counts")
    sides = [fields.whole(side) for side in size] if isinstance(size, list) else []
    lengths = _decoded(counts) if isinstance(counts, str) else counts
    runs = [fields.whole(length) for length in lengths] if isinstance(lengths, list) else []
    height = sides[0] if len(sides) == 2 and None not in sides else None
    if not height or height < 0 or not runs or any(run is None or run < 0 for run in runs):
        raise EyasError(f"{where} has the mask {fields.shown(mask)}; write size [height, width] and counts, or a bbox")
    ends = list(accumulate(run for run in runs if run is not None))
    ones = [(start, end - 1) for start, end in zip(ends[0::2], ends[1::2], strict=False) if end > start]
    if not ones:
        return NO_BOX
    whole_column = any(start // height < end // height for start, end in ones)
    top = 0 if whole_column else min(start % height for start, _ in ones)
    bottom = height if whole_column else max(end % height for _, end in ones) + 1
    return (ones[0][0] // height, top, ones[-1][1] // height + 1, bottom)


def _decoded(text: str) -> Sequence[int] | None:
    """The run lengths of COCO's compressed string, or None where it is none.

    Five bits a character above code 48, the lowest first; bit 5 says that more follow, bit 4 of the last is the sign.
    From the fourth on a length is stored as its difference to the one two before.
    """
    lengths: list[int] = []
    try:
        for value in _signed(iter(text)):
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    except ValueError:
        return None
    return lengths


def _signed(characters: Iterator[str]) -> Iterator[int]:
    for character in characters:
        value, shift, bits = 0, 0, _bits(character)
        while True:
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                break
            if shift > 60:
                raise ValueError("a length of more than 60 bits")
            following = next(characters, None)
            if following is None:
                raise ValueError("cut off")
            bits = _bits(following)
        yield value - (1 << shift) if bits & 16 else value


def _bits(character: str) -> int:
    bits = ord(character) - 48
    if not 0 <= bits < 64:
        raise ValueError("not a character of the code")
    return bits
