"""Records to batches: the dataset, the collation, the loader, and the way back to the frame of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, from_numpy
from torch.utils.data import DataLoader, Dataset, Sampler

from eyas.data.formats.records import DataSource
from eyas.data.images import decode
from eyas.data.options import Resize
from eyas.data.transforms import Transform, eval_transform
from eyas.data.worker_watch import with_timeout
from eyas.data.workers import WorkerProgress, worker_options
from eyas.ops.boxes import clip, scale
from eyas.ops.pixels import padded_batch
from eyas.types import EyasError, Prediction, Record, Size, Target, size_of

Sample = tuple[Tensor, Target]
"""((3, H, W) image, uint8 from Eyas's own transforms; its target)."""


class Draw(NamedTuple):
    """The index of a record, and the epoch and seed that fix its augmentation."""

    index: int  # type: ignore[assignment]  # hides a method of tuples that is not called here
    epoch: int
    seed: int


class DetectionDataset(Dataset[Sample]):
    """The records of a source, decoded and transformed on access.

    ``dataset[i]`` augments with torch's default generator, as torchvision's own data sets do. ``dataset[Draw(i, epoch,
    seed)]`` always gives the same sample and leaves the generator as it was. Workers record what they are decoding in
    ``worker_progress``, see `eyas.data.workers`.
    """

    def __init__(self, source: DataSource, transform: Transform, worker_progress: WorkerProgress | None = None) -> None:
        self.source = source
        self.transform = transform
        self.worker_progress = worker_progress

    def __len__(self) -> int:
        return len(self.source.records)

    def __getitem__(self, key: int | Draw) -> Sample:
        if isinstance(key, int):
            return self._sample(key)
        # Not torch.manual_seed: it would reseed the accelerators as well.
        generator = torch.default_generator
        before = generator.get_state()
        mixed = np.random.SeedSequence((key.seed, key.epoch, key.index)).generate_state(1, np.uint32)
        generator.manual_seed(int(mixed[0]))
        try:
            return self._sample(key.index)
        finally:
            generator.set_state(before)

    def _sample(self, index: int) -> Sample:
        record = self.source.records[index]
        with nullcontext() if self.worker_progress is None else self.worker_progress.at(index):
            image, target = self.transform(decode(record), ground_truth(record))
        return image, {**target, "index": index, "size": size_of(image)}


def ground_truth(record: Record) -> Target:
    """The boxes, labels and ignore regions of a record as tensors, in the frame of the image file.

    They share the record's memory: a transform makes new ones.
    """
    return {"boxes": from_numpy(record.boxes), "labels": from_numpy(record.labels), "ignore": from_numpy(record.ignore)}


def collate(samples: Sequence[Sample]) -> tuple[Tensor, list[Target]]:
    """Stack samples to (B, 3, H, W) images, padded right and bottom to the largest of the batch, and their targets."""
    return padded_batch([image for image, _ in samples]), [target for _, target in samples]


def first_with_objects(source: DataSource, resize: Resize, count: int = 4) -> tuple[Tensor, list[Target]]:
    """The first ``count`` images with objects, or the first of all where none has any, as one batch."""
    full = [index for index, record in enumerate(source.records) if len(record.boxes)]
    chosen = (full or list(range(len(source.records))))[:count]
    dataset = DetectionDataset(source, eval_transform(resize))
    return collate([dataset[index] for index in chosen])


def to_record_frame(prediction: Prediction, record: Record, size: Size) -> Prediction:
    """Scale detections from the network's frame to the frame of the image file, and clip them to it.

    Args:
        prediction: boxes in pixels of the network's input.
        record: the image in which they were found.
        size: (height, width) of the image in the batch, without its padding, ``target["size"]``.
    """
    boxes = scale(prediction["boxes"], record.width / size[1], record.height / size[0])
    return {**prediction, "boxes": clip(boxes, (record.height, record.width))}


class EpochSampler(Sampler[Draw]):
    """The order of one epoch, which depends on (seed, epoch) alone.

    The epoch travels with each index, so that workers that outlive an epoch and loaders that are sharded over
    processes or start in the middle of an epoch see the same data.
    """

    def __init__(self, length: int, *, shuffle: bool, seed: int) -> None:
        self.length, self.shuffle, self.seed, self.epoch = length, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        order: Iterable[int] = range(self.length)
        if self.shuffle:
            order = map(int, np.random.default_rng((self.seed, self.epoch)).permutation(self.length))
        return map(Draw, order, repeat(self.epoch), repeat(self.seed))


class Loader(DataLoader[Sample]):
    """A `DataLoader` that watches its workers and has the ``set_epoch`` of accelerate's prepared loaders."""

    def __iter__(self) -> Iterator[tuple[Tensor, list[Target]]]:  # type: ignore[override]
        return with_timeout(super().__iter__(), self)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, of the next iteration."""
        assert isinstance(self.sampler, EpochSampler)
        self.sampler.set_epoch(epoch)


def loader(
    source: DataSource,
    transform: Transform,
    *,
    batch_size: int,
    shuffle: bool,
    workers: int,
    seed: int,
    drop_last: bool = False,
    worker_timeout: float = 0.0,
) -> Loader:
    """Batches of a source: `(images, targets)` as `collate` makes them, uint8, see `eyas.as_float`.

    The order is a function of (seed, epoch) and each sample of (seed, epoch, index), whatever the number of workers
    and processes. Call ``set_epoch(epoch)`` on the loader, or on what ``Accelerator.prepare`` returns, before each
    epoch: a raw loader stays at its epoch, a prepared one counts iterations from 0.

    Args:
        source: a split, as `read` returns it.
        transform: `train_transform` or `eval_transform`, or your own.
        batch_size: images per batch and process.
        shuffle: draw a new order every epoch; otherwise keep the order of the records.
        workers: processes that decode and transform; 0 uses this process. With ``shuffle`` they stay for the next
            epoch; without it they end after the last record.
        seed: an integer, at least 0.
        drop_last: drop the last batch if it is not full.
        worker_timeout: seconds without a batch after which workers count as hung; 0 waits for ever.

    Raises:
        EyasError: a number is out of range, or ``drop_last`` leaves no batch.
    """
    if batch_size < 1 or workers < 0 or seed < 0:
        raise EyasError(f"need batch_size >= 1, workers >= 0, seed >= 0; got {batch_size}, {workers}, {seed}")
    if drop_last and len(source.records) < batch_size:
        raise EyasError(f"{source.root}: {len(source.records)} images do not fill one batch of {batch_size}")
    return Loader(
        DetectionDataset(source, transform, WorkerProgress(workers, worker_timeout)),
        batch_size=batch_size,
        sampler=EpochSampler(len(source.records), shuffle=shuffle, seed=seed),
        **worker_options(workers),
        collate_fn=collate,
        drop_last=drop_last,
        persistent_workers=shuffle and workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A generator of its own, or the loader would draw the workers' base seed from the default generator.
        generator=torch.Generator().manual_seed(seed),
    )
