"""The tables of ``docs/scale.md``, from what `benchmarks.scale` computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eyas.cache.store import in_bytes
from eyas.tools.tables import markdown_table

GIB = 2**30
Found = Mapping[str, Any]
ARMS = ("baseline", "distilled", "cached")


def measured(found: Found) -> str:
    """The parts that were measured."""
    inputs, reading = found["inputs"], found["inputs"]["reading"]
    one, decoding, hashing = inputs["reading one box"], inputs["decoding"], inputs["hashing"]
    images, index, evaluation = reading["images"], inputs["index"], inputs["evaluation"]
    objects = [reading[f"{what}_objects_bytes"] / images for what in ("held_as", "worker_copies_of")]
    boxes = reading["boxes"] - one["boxes"]

    def each(what: str) -> tuple[float, float]:
        """An image without its boxes, and a box."""
        of_box = (reading[what] - one[what]) / images / boxes
        return one[what] / images - of_box, of_box

    rows = [
        ("a JPEG of 640 x 480", f"{decoding['bytes'] / 1e3:.0f} kB"),
        ("decoded", f"{decoding['decoded_per_second']:.0f} images/s of one core"),
        ("decoded, resized to 800 x 1067, augmented", f"{decoding['resized_per_second']:.0f} images/s of one core"),
        ("SHA-256 of image files", f"{in_bytes(hashing['sha256_bytes_per_second'])}/s of one core"),
        ("check of cache records (CRC-32)", f"{in_bytes(hashing['crc32_bytes_per_second'])}/s of one core"),
        (f"reading a COCO file of {images:,} images with {reading['boxes']} boxes", duration(reading["seconds"])),
        ("the same, peak memory", gib(reading["peak_bytes"])),
        ("the same, memory that stays", gib(reading["held_bytes"])),
        ("reading: an image, and a box", " and ".join(f"{1e6 * value:.0f} us" for value in each("seconds"))),
        ("peak: an image, and a box", " and ".join(f"{value:,.0f} B" for value in each("peak_bytes"))),
        ("stays: an image, and a box", " and ".join(f"{value:,.0f} B" for value in each("held_bytes"))),
        ("a worker's own copy, an image", f"{reading['worker_copies_bytes'] / images:,.0f} B"),
        ("as Python objects: stays, and a worker's copy, an image",
         " and ".join(f"{value:,.0f} B" for value in objects)),
        ("digest of an unchanged file, remembered", f"{1e6 * inputs['remembering']['seconds_per_file']:.0f} us"),
        ("order of an epoch, an image", f"{1e6 * inputs['sampler']['seconds_per_image']:.2f} us"),
        ("index of the cache, a record",
         f"{1e6 * index['seconds_per_record']:.0f} us, {index['bytes_per_record']:,.0f} B"),
        ("COCO's metrics, an image with 100 detections",
         f"{1e3 * evaluation['seconds_per_image']:.1f} ms, {evaluation['bytes_per_image'] / 1e3:.0f} kB"),
        ("detections of an image between processes", f"{evaluation['sent_bytes_per_image'] / 1e3:.1f} kB"),
        ("gradients of Faster R-CNN R50-FPN, and of its adapters",
         " and ".join(in_bytes(inputs["gradients"][f"{what}_bytes"]) for what in ("student", "adapters"))),
        ("a distilled step, and a cached one, over the baseline's",
         " and ".join(f"{inputs['step'][arm]:.2f}" for arm in ("distilled", "cached"))),
        ("near cells of an image with 7, 30 and 100 boxes", ", ".join(f"{n:,}" for n in inputs["cells"].values())),
    ]  # fmt: skip
    return table(["", "measured"], rows)


def assumed(found: Found) -> str:
    """What is not measured."""
    values, nodes = found["assumed"], {int(gpus): node for gpus, node in found["nodes"].items()}
    rows = [
        ("a step of the student alone, 8 images of 800 x 1067 on one GPU", f"{values['student_step_seconds']:g} s"),
        ("epochs", f"{values['epochs']:g}"),
        ("workers of each GPU", f"{values['workers_per_gpu']:g}"),
    ]
    for gpus, node in nodes.items():
        link = (
            f", {8 * node['link_bytes_per_second'] / 1e9:.0f} Gbit/s between nodes"
            if node["link_bytes_per_second"]
            else ""
        )
        rows.append(
            (
                f"a node of {gpus} GPU{'s' if gpus > 1 else ''}"
                if gpus <= 8
                else f"each of {gpus // 8} nodes, {gpus} GPUs",
                f"{node['cores']:g} cores, {node['memory_gib']:,g} GiB, {in_bytes(node['disk_bytes'])} of disk "
                f"that reads {in_bytes(node['disk_bytes_per_second'])}/s{link}",
            )
        )
    return table(["", "assumed"], rows)


def data(found: Found) -> str:
    """What the data sets take on the disk."""
    by_name = {one["name"]: one for one in found["data_sets"]}
    rows = [
        (
            name, f"{by_name[name]['images']:,}", f"{one['boxes'] / 1e6:.1f} M", in_bytes(one["image_bytes"]),
            in_bytes(one["file_bytes"]), f"{one['near_cells']:,.0f}", in_bytes(one["record_bytes"]),
            in_bytes(one["cache_bytes"]), f"{one['cache_bytes'] / one['dense_bytes']:.1%}",
            f"{one['cache_bytes'] / one['image_bytes']:.1f}",
        )
        for name, one in found["data"].items()
    ]  # fmt: skip
    head = [
        "images", "boxes", "image files", "annotations", "near cells", "a record", "cache", "of whole maps",
        "over image files",
    ]  # fmt: skip
    return table(["", *head], rows)


def start(found: Found) -> str:
    """What every start takes, of each process."""
    rows = [
        (
            name, duration(one["read_seconds"]), gib(one["read_peak_bytes"]), gib(one["held_bytes"]),
            f"{gib(one['held_as_objects_bytes'])}, {gib(one['worker_objects_bytes'])} each worker",
            duration(one["hash_seconds"]), duration(one["remembered_seconds"]), duration(one["check_seconds"]),
            f"{duration(one['index_seconds'])}, {gib(one['index_bytes'])}",
        )
        for name, one in found["data"].items()
    ]  # fmt: skip
    head = [
        "reading",
        "peak",
        "stays",
        "as objects it was",
        "hashing, once",
        "remembered",
        "cache's check, shared",
        "cache's index",
    ]
    return table(["", *head], rows)


def speed(found: Found) -> str:
    """Steps and hours."""
    rows = [
        (
            run["data"], run["gpus"], " / ".join(f"{run['steps_per_second'][arm]:.2f}" for arm in ARMS),
            f"{run['images_per_second']['distilled']:,.0f}", " / ".join(f"{run['hours'][arm]:.1f}" for arm in ARMS),
            duration(3600 * run["fill_hours"]),
        )
        for run in found["runs"]
    ]  # fmt: skip
    head = ["GPUs", "steps/s", "images/s, distilled", "hours", "filling the cache"]
    return table(["", *head], rows)


def node(found: Found) -> str:
    """What a training takes of each node."""
    rows = [
        (
            run["data"], run["gpus"], f"{run['cores']:.1f}", gib(run["start_memory_bytes"]), gib(run["memory_bytes"]),
            f"{run['image_bytes_per_second'] / 1e6:.0f} MB/s", f"{run['cache_bytes_per_second'] / 1e6:.0f} MB/s",
            ", ".join(map(duration, run["start_seconds"].values())),
            in_bytes(run["all_reduce_bytes"]) if run["all_reduce_bytes"] else "none",
            ", ".join(map(duration, run["all_reduce_seconds"].values())) if run["all_reduce_bytes"] else "none",
        )
        for run in found["runs"]
    ]  # fmt: skip
    head = [
        "GPUs", "cores that decode", "memory at the start", "in training", "images read", "cache read",
        "start, and with the cache", "network, a step", "at 100 and 10 Gbit/s",
    ]  # fmt: skip
    return table(["", *head], rows)


def first(found: Found) -> str:
    """The share of what a node has, and what is first to run out."""
    names = list(found["runs"][0]["shares"])
    rows = [
        (run["data"], run["gpus"], *(share(run["shares"][name], name == run["first"]) for name in names))
        for run in found["runs"]
    ]
    return table(["", "GPUs", *names], rows)


def evaluation(found: Found) -> str:
    """What an evaluation takes of the first process, and before of every one."""
    rows = [
        (
            name, f"{one['val_images']:,}", duration(sizes["score_seconds"]), gib(sizes["score_bytes"]),
            gib(8 * sizes["score_bytes"]), in_bytes(sizes["sent_bytes"]),
        )
        for one in found["data_sets"]
        for name, sizes in [(one["name"], found["data"][one["name"]])]
    ]  # fmt: skip
    return table(["", "images", "scoring", "memory", "in 8 processes it was", "detections gathered"], rows)


TABLES: Mapping[str, Callable[[Found], str]] = {
    made.__name__: made for made in (measured, assumed, data, start, speed, node, first, evaluation)
}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: the first column is text, the others numbers."""
    return markdown_table([head, *(list(map(str, row)) for row in rows)])


def gib(count: float) -> str:
    """Bytes of memory."""
    found = count / GIB
    return f"{found:.2g} GiB" if found < 10 else f"{found:,.0f} GiB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for limit, length, unit in ((100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}" if seconds / length < 10 else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def share(value: float, is_first: bool) -> str:
    """A share of what there is, in bold where it is the largest."""
    text = f"{value:.0%}" if value >= 0.01 or not value else "< 1%"
    return f"**{text}**" if is_first else text
