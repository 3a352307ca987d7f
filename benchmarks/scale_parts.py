"""Measures the parts that `benchmarks.scale` computes with: seconds of one core, bytes of memory, bytes of a record.

Seconds are those of the processor, so a machine that is busy with other work measures the same within some percent.
What takes memory runs in a process of its own: ``python -m benchmarks.scale_parts PART FOLDER`` prints one JSON line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.scale_data import CLASSES, IMAGE, IMAGE_BYTES, jpeg, write_annotations

DETECTIONS, EVALUATED = 100, 2000
"""Detections of an image, and images, that COCO's metrics are measured on."""
RECORDS = 200_000
"""Records of the cache index that is opened."""

Measured = dict[str, float]


def measure(images: int, boxes: int) -> dict[str, Measured]:
    """Every part; reading, on ``images`` images with ``boxes`` boxes each, and on as many with one box."""
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = write_annotations(root, images, boxes)
        found["reading"] = {"images": images, "boxes": boxes, **_alone("reading", root), **_alone("objects", root)}
        write_annotations(root, images, 1, names)
        found["reading one box"] = {"images": images, "boxes": 1, **_alone("reading", root), **_alone("objects", root)}
        found["remembering"] = _alone("remembering", root)
        found["index"] = _alone("index", root / "index")
        found["evaluation"] = _alone("evaluation", root)
    # Last, since torch is loaded here: a process's peak counts from before its own program is loaded.
    return {**found, "decoding": decoding(), "hashing": hashing(), "sampler": sampler(images), "gradients": gradients()}


# Images --------------------------------------------------------------------------------------------------------------


def decoding() -> Measured:
    """Images per second of one core: decoded, and decoded, resized to 800 x 1333 and augmented as in training."""
    import torch

    from eyas.data import Augmentation, DataSource, Resize, train_transform
    from eyas.data.dataset import DetectionDataset
    from eyas.data.formats.records import Annotation, build_record
    from eyas.data.images import decode

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(16)]
        for number, path in enumerate(paths):
            path.write_bytes(jpeg(number))
        cat = Annotation((10, 10, 200, 200), 0)
        records = [build_record(path.stem, path, IMAGE, [cat], path)[0] for path in paths]
        transform = train_transform(Resize(shorter=800, longer=1333), Augmentation())
        dataset = DetectionDataset(DataSource("coco", Path(folder), "train", ("cat",), records), transform)
        size = sum(path.stat().st_size for path in paths) / len(paths)
        return {
            "bytes": size,
            "decoded_per_second": len(paths) / _seconds(lambda: [decode(record) for record in records]),
            "resized_per_second": len(paths) / _seconds(lambda: [dataset[index] for index in range(len(paths))]),
        }


def hashing() -> Measured:
    """Bytes per second of one core: SHA-256 of image files, and the checksum of a cache's records."""
    from eyas.tools.files import file_digest

    content = np.random.default_rng(0).bytes(IMAGE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.jpg")
        path.write_bytes(content)
        hashed = _seconds(lambda: [file_digest(path) for _ in range(200)])
    checked = _seconds(lambda: [zlib.crc32(content) for _ in range(200)])
    return {
        "sha256_bytes_per_second": 200 * len(content) / hashed,
        "crc32_bytes_per_second": 200 * len(content) / checked,
    }


# Data ----------------------------------------------------------------------------------------------------------------


def reading(root: Path) -> Measured:
    """Seconds, peak and lasting memory of `eyas.data.read`, and what a forked worker copies that reads all records."""
    from eyas.data import read

    before, start = _resident(), time.process_time()
    source = read(root, "train")
    seconds, peak = time.process_time() - start, _peak()
    held = _resident() - before
    return {
        "file_bytes": (root / "annotations" / "instances_train.json").stat().st_size,
        "seconds": seconds,
        "peak_bytes": peak,
        "held_bytes": held,
        "worker_copies_bytes": _copied(lambda: [record.boxes.sum() for record in source.records]),
    }


def objects(root: Path) -> Measured:
    """Memory of the same records before they are packed, and what a forked worker copies of it."""
    from eyas.data.formats import coco

    before = _resident()
    source = coco.read_split(root, "train", None)
    return {
        "held_as_objects_bytes": _resident() - before,
        "worker_copies_of_objects_bytes": _copied(lambda: [record.boxes.sum() for record in source.records]),
    }


def remembering(root: Path) -> Measured:
    """Seconds to find the digests of unchanged files, each of a file, and the bytes of one that is remembered."""
    from eyas.tools import digests

    os.environ["XDG_CACHE_HOME"] = str(root / "home")
    digests.SETTLED = 0
    paths = sorted((root / "images" / "train").iterdir())
    digests.file_digests(paths, root, lambda: None)
    read: list[None] = []
    start = time.process_time()
    digests.file_digests(paths, root, lambda: read.append(None))
    assert not read, "files were read again"
    return {"seconds_per_file": (time.process_time() - start) / len(paths), "bytes_per_file": digests.ENTRY.itemsize}


# The cache -----------------------------------------------------------------------------------------------------------


def index(folder: Path) -> Measured:
    """Seconds and memory to open the index of a cache, each of a record."""
    from eyas.cache.shards import Shards

    folder.mkdir()
    random = np.random.default_rng(0)
    lines = [json.dumps(["folder", folder.name])]
    lines += [json.dumps([random.bytes(32).hex(), 300_000 * number, 300_000, 12345]) for number in range(RECORDS)]
    (folder / "shard-00001-0.index").write_text("\n".join(lines) + "\n")
    with (folder / "shard-00001-0.bin").open("wb") as file:
        file.truncate(300_000 * RECORDS)  # without a block on the disk
    before, start = _resident(), time.process_time()
    shards = Shards(folder)
    seconds = time.process_time() - start
    assert len(list(shards)) == RECORDS
    return {"seconds_per_record": seconds / RECORDS, "bytes_per_record": (_resident() - before) / RECORDS}


# Processes -----------------------------------------------------------------------------------------------------------


def sampler(images: int) -> Measured:
    """Seconds to draw the order of one epoch, as every process does, each of an image."""
    from eyas.data.dataset import EpochSampler

    order = EpochSampler(images, shuffle=True, seed=0)
    return {"seconds_per_image": _seconds(lambda: sum(1 for _ in order), 1) / images}


def gradients() -> Measured:
    """Bytes of the gradients that an optimiser step exchanges: a student's, and those of its adapters."""
    import torch

    from eyas.detectors import build
    from eyas.methods.adapter import Adapter

    with torch.device("meta"):
        adapter = Adapter(256, 256, kernel_size=3, init_std=0.01)
    student = build("faster_rcnn", [f"class {number}" for number in range(CLASSES)], backbone="resnet50")
    return {
        "student_bytes": 4.0 * sum(one.numel() for one in student.network.parameters() if one.requires_grad),
        "adapters_bytes": 4.0 * 5 * sum(one.numel() for one in adapter.parameters()),
    }


def evaluation(_: Path) -> Measured:
    """Seconds and memory of COCO's metrics, and the bytes that processes exchange, each of an image."""
    import torch

    from eyas.data.formats.records import Annotation, build_record
    from eyas.evaluation import evaluate
    from eyas.types import Prediction

    random = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        corner = random.uniform(0, 300, (count, 2))
        return np.concatenate((corner, corner + random.uniform(5, 170, (count, 2))), 1)

    records, predictions = [], []
    for number in range(EVALUATED):
        entries = [Annotation(tuple(box), int(random.integers(CLASSES))) for box in boxes(7).tolist()]
        records.append(build_record(str(number), Path(f"{number}.jpg"), IMAGE, entries, Path())[0])
        scores, labels = random.uniform(0, 1, DETECTIONS), random.integers(0, CLASSES, DETECTIONS)
        found = (boxes(DETECTIONS).astype(np.float32), scores.astype(np.float32), labels)
        tensors = [torch.from_numpy(values) for values in found]
        predictions.append(Prediction(boxes=tensors[0], scores=tensors[1], labels=tensors[2]))
    sent = len(pickle.dumps(dict(enumerate(predictions)))) / EVALUATED
    before, start = _peak(), time.process_time()
    evaluate("coco", records, [f"class {number}" for number in range(CLASSES)], predictions)
    seconds = time.process_time() - start
    return {
        "seconds_per_image": seconds / EVALUATED,
        "bytes_per_image": (_peak() - before) / EVALUATED,
        "sent_bytes_per_image": sent,
    }


# -------------------------------------------------------------------------------------------------------------------


def _seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The least processor seconds of a run, whose waits for other programs do not count."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def _resident() -> int:
    """Bytes of resident memory, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _copied(run: Callable[[], object]) -> int:
    """Bytes that a forked process has of its own after the run, beyond those it has without it."""
    return _private(run) - _private(lambda: None)


def _private(run: Callable[[], object]) -> int:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        gc.disable()
        run()
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
        os.write(writer, str(1024 * kib).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = int(file.read())
    os.waitpid(child, 0)
    return found


PARTS: Mapping[str, Callable[[Path], Measured]] = {
    part.__name__: part for part in (reading, objects, remembering, index, evaluation)
}


def _alone(part: str, folder: Path) -> Measured:
    """The part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale_parts", part, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Measured = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](Path(sys.argv[2]))))
