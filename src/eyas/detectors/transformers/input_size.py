"""The size of a detector's input in the configuration of its image processor, read and written.

A size has the names of `eyas.data.options.Resize`: ``height`` and ``width``, or ``shorter`` and ``longer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.tools.files import write_json
from eyas.tools.text_files import read_json

PROCESSOR = "preprocessor_config.json"
NAMES = {"height": "height", "width": "width", "shortest_edge": "shorter", "longest_edge": "longer"}
"""The library's name of a side -> ours."""
LONGEST = 16384
"""Longer side for a processor that must have one and none is asked for, pixels."""


def read_input_size(folder: Path) -> dict[str, Any]:
    """The size that a folder's image processor resizes to; empty where it states none, or does not resize.

    The values are as they stand in the file, which a stranger may have written.
    """
    path = folder / PROCESSOR
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, Mapping) or values.get("do_resize") is False:
        return {}
    size = values.get("size")
    if isinstance(size, int):  # as earlier versions of the library wrote it
        size = {"shortest_edge": size, "longest_edge": values.get("max_size")}
    if not isinstance(size, Mapping):
        return {}
    if {"max_height", "max_width"} <= size.keys():
        return {"longer": size["max_height"]} if size["max_height"] == size["max_width"] else {}
    return {own: size[name] for name, own in NAMES.items() if size.get(name) is not None}


def write_input_size(folder: Path, size: Mapping[str, int]) -> None:
    """Have a folder's image processor resize to a size, as the detector was trained; empty: not at all."""
    path = folder / PROCESSOR
    values: dict[str, Any] = {**read_json(path), "do_resize": bool(size)}
    if "shorter" in size:
        values["size"] = {"shortest_edge": size["shorter"], "longest_edge": size.get("longer", LONGEST)}
    elif "longer" in size:
        values["size"] = {"max_height": size["longer"], "max_width": size["longer"]}
    elif size:
        values["size"] = {"height": size["height"], "width": size["width"]}
    write_json(path, values)
