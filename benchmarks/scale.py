"""What COCO, Objects365 and a million unlabelled images ask of 1, 8 and 64 GPUs, and what runs out first.

    python -m benchmarks.scale --measure --images 1000000    # measure the parts, then compute
    python -m benchmarks.scale                               # compute again from the measured parts

Both write ``results/scale.json`` and the tables of ``docs/scale.md``. Measured are the parts of
`benchmarks.scale_parts`, the ratios of steps in ``results/step.json``, and the near cells in ``results/mask.json``.
`ASSUMED` and `NODES` are not measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scale_parts
from eyas.cache.shards import record_bytes

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "results" / "scale.json", ROOT / "docs" / "scale.md"
GPUS = (1, 8, 64)
LEVELS, CHANNELS, ITEMSIZE = 5, 256, 2
"""The teacher's maps: an FPN in bfloat16."""
INPUT, STRIDES = (800, 1067), (4, 8, 16, 32, 64)
"""Height and width of a 640 x 480 image for the network, and the levels of the pyramid in ``results/mask.json``."""
VARIANTS = 2
"""An image as it is, and flipped."""
PAIR = "Faster R-CNN R50-FPN -> R18-FPN, 3x3"
"""The pair of ``results/step.json`` whose ratios are taken."""
GIB = 2**30
TABLE = re.compile(r"(?s)(<!-- scale: (\w+) -->\n)(?:.*?\n)??(<!-- /scale -->)")
"""A table of the page: what is before it, its name, and what is behind it."""


@dataclass(frozen=True)
class DataSet:
    """Counts that its authors publish; the bytes of an image are assumed where they do not."""

    name: str
    images: int
    boxes_per_image: float
    bytes_per_image: float
    val_images: int


DATA = (
    DataSet("COCO", 118_287, 7.3, 163e3, 5_000),
    DataSet("Objects365", 1_742_289, 14.6, 200e3, 80_000),
    DataSet("a million unlabelled", 1_000_000, 7.3, 163e3, 5_000),
)
ASSUMED: dict[str, float] = {
    "student_step_seconds": 0.25,
    "images_per_gpu": 8,
    "epochs": 12,
    "gpus_per_node": 8,
    "workers_per_gpu": 8,
}
NODES: dict[int, dict[str, float]] = {
    1: {"cores": 16, "memory_gib": 64, "disk_bytes": 2e12, "disk_bytes_per_second": 2e9, "link_bytes_per_second": 0},
    8: {"cores": 96, "memory_gib": 1024, "disk_bytes": 8e12, "disk_bytes_per_second": 5e9, "link_bytes_per_second": 0},
    64: {
        "cores": 96, "memory_gib": 1024, "disk_bytes": 100e12, "disk_bytes_per_second": 1e9,
        "link_bytes_per_second": 12.5e9,
    },
}  # fmt: skip
"""A node of each kind: a workstation, a server, and one of eight servers with shared storage, whose share of reads is
its own. All assumed."""
LINKS = (100, 10)
"""Gbit/s between nodes for which the exchange of gradients is computed."""
Run = dict[str, Any]


def compute(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Every row of the page."""
    inputs = {**measured, "step": step_ratios(), "cells": near_cells()}
    data = {one.name: of_data(one, inputs) for one in DATA}
    runs = [of_run(one, gpus, data[one.name], inputs) for one in DATA for gpus in GPUS]
    return {"inputs": inputs, "data": data, "runs": runs}


def step_ratios() -> dict[str, float]:
    """Seconds of a distilled and of a cached step over one without a teacher."""
    rows = {row["name"]: row["ratio"] for row in json.loads((ROOT / "results" / "step.json").read_text())}
    return {side: rows[f"{PAIR}: {side} over plain"] for side in ("distilled", "cached")}


def near_cells() -> dict[str, float]:
    """Near cells of an image of the pyramid, by its number of boxes."""
    rows = json.loads((ROOT / "results" / "mask.json").read_text())
    return {str(row["boxes"]): row["near_cells"] for row in rows if row["name"] == "pyramid"}


def of_data(data: DataSet, inputs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What a data set takes, whatever trains on it."""
    cells = inputs["cells"]
    near = float(np.interp(data.boxes_per_image, [float(count) for count in cells], list(cells.values())))
    record = record_bytes([round(near), *[0] * (LEVELS - 1)], [CHANNELS] * LEVELS, ITEMSIZE)
    dense = sum(-(-INPUT[0] // stride) * -(-INPUT[1] // stride) for stride in STRIDES) * CHANNELS * ITEMSIZE
    boxes, records = data.images * data.boxes_per_image, data.images * VARIANTS
    hashing, index, evaluation = inputs["hashing"], inputs["index"], inputs["evaluation"]
    image_bytes, cache_bytes = data.images * data.bytes_per_image, records * record
    return {
        "boxes": boxes,
        "image_bytes": image_bytes,
        "near_cells": near,
        "record_bytes": record,
        "cache_bytes": cache_bytes,
        "dense_bytes": records * dense,
        "file_bytes": data.images * per(inputs, data, "file_bytes"),
        "read_seconds": data.images * per(inputs, data, "seconds"),
        "read_peak_bytes": data.images * per(inputs, data, "peak_bytes"),
        "held_bytes": data.images * per(inputs, data, "held_bytes"),
        "worker_bytes": data.images * per(inputs, data, "worker_copies_bytes"),
        "held_as_objects_bytes": data.images * per(inputs, data, "held_as_objects_bytes"),
        "worker_objects_bytes": data.images * per(inputs, data, "worker_copies_of_objects_bytes"),
        "hash_seconds": image_bytes / hashing["sha256_bytes_per_second"],
        "remembered_seconds": data.images * inputs["remembering"]["seconds_per_file"],
        "check_seconds": cache_bytes / hashing["crc32_bytes_per_second"],
        "index_seconds": records * index["seconds_per_record"],
        "index_bytes": records * index["bytes_per_record"],
        "sampler_seconds": data.images * inputs["sampler"]["seconds_per_image"],
        "score_seconds": data.val_images * evaluation["seconds_per_image"],
        "score_bytes": data.val_images * evaluation["bytes_per_image"],
        "sent_bytes": data.val_images * evaluation["sent_bytes_per_image"],
    }


def per(inputs: Mapping[str, Mapping[str, float]], data: DataSet, what: str) -> float:
    """A cost of reading an image with its boxes, from the measurements with several boxes an image and with one."""
    many, one = inputs["reading"], inputs["reading one box"]
    of_box = (many[what] / many["images"] - one[what] / one["images"]) / (many["boxes"] - one["boxes"])
    return one[what] / one["images"] + of_box * (data.boxes_per_image - 1)


def of_run(data: DataSet, gpus: int, sizes: Mapping[str, float], inputs: Mapping[str, Mapping[str, float]]) -> Run:
    """What a training on ``gpus`` GPUs takes of each node."""
    on_node = min(gpus, int(ASSUMED["gpus_per_node"]))
    nodes, batch, step = gpus // on_node, ASSUMED["images_per_gpu"] * gpus, ASSUMED["student_step_seconds"]
    ratio = {arm: max(1.0, inputs["step"].get(arm, 1.0)) for arm in ("baseline", "distilled", "cached")}
    rate = {arm: batch / (step * value) for arm, value in ratio.items()}
    # The teacher's share of a step alone, as far as all cores decode so many images.
    decoded = nodes * NODES[gpus]["cores"] * inputs["decoding"]["resized_per_second"]
    fill = min(batch / (step * (ratio["distilled"] - 1)), decoded)
    gradient = sum(inputs["gradients"].values())
    own = rate["cached"] / nodes
    workers = ASSUMED["workers_per_gpu"] * on_node
    run: Run = {
        "data": data.name,
        "gpus": gpus,
        "steps_per_second": {arm: 1 / (step * value) for arm, value in ratio.items()},
        "images_per_second": rate,
        "hours": {arm: ASSUMED["epochs"] * data.images / value / 3600 for arm, value in rate.items()},
        "fill_hours": data.images * VARIANTS / fill / 3600,
        "cores": own / inputs["decoding"]["resized_per_second"],
        "start_memory_bytes": on_node * sizes["read_peak_bytes"],
        "memory_bytes": on_node * (sizes["held_bytes"] + sizes["index_bytes"]) + workers * sizes["worker_bytes"],
        "image_bytes_per_second": own * data.bytes_per_image,
        "cache_bytes_per_second": own * sizes["record_bytes"],
        "all_reduce_bytes": 2 * (nodes - 1) / nodes * gradient,  # of a ring over the nodes, each way
    }
    run["all_reduce_seconds"] = {str(speed): run["all_reduce_bytes"] / (speed * 1e9 / 8) for speed in LINKS}
    node = NODES[gpus]
    # A process reads the annotations, then its share of the cache, as fast as it can check it or the node can read it.
    check = max(sizes["check_seconds"] / gpus, sizes["cache_bytes"] / nodes / node["disk_bytes_per_second"])
    run["start_seconds"] = {"plain": sizes["read_seconds"], "cached": sizes["read_seconds"] + check}
    shares = of_node(run, node, sizes, data.images / rate["cached"])
    return {**run, "shares": shares, "first": max(shares, key=lambda name: shares[name])}


def of_node(run: Run, node: Mapping[str, float], sizes: Mapping[str, float], epoch_seconds: float) -> dict[str, float]:
    """The share of what a node has that a cached training takes."""
    link = node["link_bytes_per_second"]
    return {
        "cores": run["cores"] / node["cores"],
        "memory at the start": run["start_memory_bytes"] / GIB / node["memory_gib"],
        "memory in training": run["memory_bytes"] / GIB / node["memory_gib"],
        "disk space": (sizes["image_bytes"] + sizes["cache_bytes"]) / node["disk_bytes"],
        "disk reads": (run["image_bytes_per_second"] + run["cache_bytes_per_second"]) / node["disk_bytes_per_second"],
        "network": run["all_reduce_bytes"] * run["steps_per_second"]["cached"] / link if link else 0.0,
        "start, of an epoch": run["start_seconds"]["cached"] / epoch_seconds,
    }


# The page ------------------------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page, by the name in its comments."""
    from benchmarks import scale_tables

    return {name: make(found) for name, make in scale_tables.TABLES.items()}


def filled(page: str, found: Mapping[str, Any]) -> str:
    """The page with its tables as they are computed."""
    made = tables(found)
    return TABLE.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the parts again; takes minutes")
    parser.add_argument("--images", type=int, default=100_000, help="images of the annotation file that is read")
    parser.add_argument("--boxes", type=int, default=7, help="boxes of each of them")
    parser.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="whose tables are written")
    chosen = parser.parse_args(arguments)
    measured = (
        scale_parts.measure(chosen.images, chosen.boxes)
        if chosen.measure
        else json.loads(chosen.json.read_text())["measured"]
    )
    stated = {"assumed": ASSUMED, "nodes": NODES, "data_sets": [asdict(one) for one in DATA]}
    found = {"measured": measured, **stated, **compute(measured)}
    chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if chosen.page.exists():
        chosen.page.write_text(filled(chosen.page.read_text(encoding="utf-8"), found), encoding="utf-8")
    print("\n\n".join(tables(found).values()))


if __name__ == "__main__":
    main()
