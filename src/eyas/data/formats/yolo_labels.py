"""The lines of YOLO label files, and the label file of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eyas.data.formats import fields
from eyas.data.formats.records import Box
from eyas.types import EyasError

Floats = npt.NDArray[np.float64]

LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
"""The folder of labels for that of images; one in another case is found, too."""
LINES_COMPARED = 200
"""Number of lines by which pose labels are told from polygons."""
MOST_POINTS = 140
"""Lines with more points are polygons: no pose has as many."""


@dataclass(frozen=True)
class YoloLine:
    """One line of a label file.

    Attributes:
        label: 0-based class.
        values: centre and size of the box, or the points of a polygon, in units of the image's width and height.
        line: counts from 1.
    """

    label: int
    values: tuple[float, ...]
    line: int

    def box(self, size: tuple[int, int]) -> Box:
        """The box in pixels of an image of ``size`` (width, height); around the points of a polygon."""
        width, height = size
        if not all(map(math.isfinite, self.values)):
            return (math.nan,) * 4  # dropped later; the extent of a polygon would skip a NaN point
        if len(self.values) == 4:
            x, y, w, h = self.values
            return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        xs, ys = self.values[0::2], self.values[1::2]
        return (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)


def parse(text: str, path: Path, names: Sequence[str], key_points: int | None = None) -> list[YoloLine]:
    """The lines of a label file: ``class cx cy w h``, with ``key_points`` numbers after them, or polygons.

    Raises `EyasError` with file and line on a malformed line or a class that ``names`` does not have.
    """
    found = []
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        where = f"{path}:{line}"
        try:
            index, *values = [fields.number(word) for word in content.split()]
        except ValueError as error:
            raise EyasError(f"{where}: {error}") from None
        if key_points and len(values) in (4, 4 + key_points):
            values = values[:4]
        elif key_points:
            written = f"{where}: {len(values) + 1} columns, but kpt_shape: says that a line has {5 + key_points}"
            raise EyasError(f"{written}; correct one of them")
        elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise EyasError(f"{where}: {len(values) + 1} columns; {_advice(len(values))}")
        if index not in range(len(names)):
            known = f"{len(names)}, 0 to {len(names) - 1}: {', '.join(names)}"
            raise EyasError(f"{where}: unknown class {index:g}; the labels count from 0, and the names are {known}")
        found.append(YoloLine(int(index), tuple(values), line))
    return found


def label_paths(image: Path) -> list[Path]:
    """Where the labels of an image may be, likeliest first: ``labels`` for an ``images`` in its path, or beside it.

    ``image`` is relative to the data set's folder: folders above it may be called anything.
    """
    parts, file = image.parent.parts, image.with_suffix(".txt").name
    swapped = [
        Path(*parts[:index], LABELS[part], *parts[index + 1 :], file)
        for index, part in enumerate(parts)
        if part in LABELS
    ]
    return [*reversed(swapped), image.with_suffix(".txt")]


def look_like_pose(lines: Sequence[Sequence[float]]) -> bool:
    """Whether lines of more than four numbers are rather a box and key points than polygons.

    Pose lines have equally many numbers, and all key points are inside the box of the first four, or 0 for one that is
    not labelled. Small polygons may pass for that as well, so their shape counts too: read as a polygon, most pose
    lines cross themselves, or have their second point, the size of the box, far from the others. That is so of 67 to
    100 % of random poses of two key points or more, and of 0 to 17 % of random outlines. Triangles are left open.
    """
    counts = {len(values) for values in lines}
    if len(counts) != 1 or not 6 < (count := counts.pop()) <= 2 * MOST_POINTS:
        return False
    values = np.array(lines[:LINES_COMPARED])
    if not np.isfinite(values).all():
        return False
    if (count - 4) % 3 == 0 and _inside_box(values, 3) and np.isin(values[:, 6::3], (0, 1, 2)).all():
        return True
    if not _inside_box(values, 2):
        return False
    unlike = [
        _second_point_strays(polygon) or _crosses_itself(polygon) for polygon in values.reshape(len(values), -1, 2)
    ]
    return bool(np.mean(unlike) >= 0.5)


def look_like_tracks(lines: Sequence[Sequence[float]]) -> bool:
    """Whether lines of six numbers are rather a box, its confidence and the number of a track than triangles."""
    return bool(lines) and all(len(values) == 6 and values[5].is_integer() for values in lines)


def _inside_box(values: Floats, numbers: int) -> bool:
    """Whether all points after the first four numbers, ``numbers`` of each, are in the box of those or at 0."""
    points = values[:, 4:].reshape(len(values), -1, numbers)[..., :2]
    centre, half = values[:, None, :2], values[:, None, 2:4] / 2
    inside = (np.abs(points - centre) <= half + 1e-3).all(-1)
    return bool((inside | (points == 0).all(-1)).all())


def _second_point_strays(polygon: Floats) -> bool:
    """Whether the second point is further from the others' extent than that is large; a parallelogram's is not."""
    others = np.delete(polygon, 1, axis=0)
    low, high = others.min(0), others.max(0)
    return bool(((polygon[1] < 2 * low - high - 1e-6) | (polygon[1] > 2 * high - low + 1e-6)).any())


def _crosses_itself(polygon: Floats) -> bool:
    """Whether two sides of a polygon cross; sides that touch do not."""
    start, side = polygon, np.roll(polygon, -1, axis=0) - polygon
    from_start = start[None] - start[:, None]  # [i, j]: from the start of side i to that of j
    to_start = np.sign(_cross(side[:, None], from_start))
    to_end = np.sign(_cross(side[:, None], from_start + side[None]))
    apart = to_start * to_end < 0  # the ends of side j are on both sides of side i
    return bool((apart & apart.T).any())


def _cross(a: Floats, b: Floats) -> Floats:
    found: Floats = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return found


def _advice(numbers: int) -> str:
    if numbers == 5:
        return "write `class cx cy w h`: a sixth column, such as the confidence of a prediction, must be removed"
    return "write `class cx cy w h` or a polygon; pose labels need kpt_shape: in data.yaml"
