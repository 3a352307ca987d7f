"""Fills a teacher cache: predicts its size, then runs the teacher once over what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset

from eyas.args import DataArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.shards import ShardWriter
from eyas.cache.store import CacheSize, TeacherCache
from eyas.cache.teacher import ImageVariant
from eyas.data import Augmentation, DataSource, DetectionDataset, collate, train_transform
from eyas.data.dataset import Draw, Sample, ground_truth
from eyas.data.transforms import Transform
from eyas.data.worker_watch import name_failed_images, with_timeout
from eyas.data.workers import WorkerProgress, worker_options
from eyas.distillation.outlines import Outlines
from eyas.methods.cells import CellMethod
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import tapped_view
from eyas.ops.pixels import as_float
from eyas.types import Size, Target, size_of

SAMPLE = 500
"""Number of images whose masks predict the size; it is exact if there are no more."""
Cached = tuple[CellMethod, TeacherCache]
"""A method and its cache, which methods with the same cells share."""


@dataclass(frozen=True, eq=False)
class CacheFiller:
    """Runs the teacher over the images whose records are missing, without random augmentation.

    Keys are those of this process's image variants; missing are the keys that each cache lacks.
    """

    teacher: TeacherOnDemand
    taps: Sequence[str]
    """The teacher's taps, one for each level pair."""
    cached: Sequence[Cached]
    source: DataSource
    data: DataArgs
    accelerator: Accelerator

    def predict(self, missing: Sequence[set[bytes]], keys: Mapping[ImageVariant, bytes]) -> list[CacheSize]:
        """The size that each cache's missing records will have: exact up to `SAMPLE` records, an estimate above."""
        if not any(missing):  # the teacher need not be there
            return [CacheSize()] * len(self.cached)
        view_of = Outlines(self.teacher.detector, self.taps, "teacher")
        predicted = []
        for (method, store), gaps in zip(self.cached, missing, strict=True):
            images = [image for image, key in keys.items() if key in gaps]
            sample = images[:: -(-len(images) // SAMPLE) or 1]
            total = CacheSize()
            for image in sample:
                size, target = self._network_target(image)
                total += store.predict(method.masks(view_of(size, 1), [target]))
            predicted.append(total * (len(images) / max(len(sample), 1)))
        return predicted

    def run(
        self, missing: Sequence[set[bytes]], keys: Mapping[ImageVariant, bytes], advance: Callable[[int], None]
    ) -> None:
        """Compute and write what is missing, in the batches of a complete filling.

        The last bits of a vector depend on how many images are in its batch. This way a cache whose filling was
        interrupted, or that lost a part, ends with the same bits. After each batch ``advance`` is called with the
        number of its images that were missing.
        """
        gaps = set().union(*missing)
        batches = [batch for batch in self._batches(list(keys)) if any(keys[image] in gaps for image in batch)]
        loader = self._loader(batches)
        with eval_mode(self.teacher.detector.network), name_failed_images(loader), ExitStack() as stack:
            shards = [ShardWriter(store.folder, self.accelerator.process_index) for _, store in self.cached]
            writers = [stack.enter_context(shard) for shard in shards]
            for batch in with_timeout(loader, loader):
                images, targets = send_to_device(batch, self.teacher.device)
                found = [keys[target["index"], target["variant"]] for target in targets]
                seen = as_float(images).contiguous(memory_format=self.teacher.layout)
                with self.accelerator.autocast():
                    view = tapped_view(self.teacher.detector, self.taps, seen, "teacher")
                for (method, store), wants, writer in zip(self.cached, missing, writers, strict=True):
                    if wants.isdisjoint(found):
                        continue
                    for key, levels in zip(found, store.split(method.select(view, targets)), strict=True):
                        if key in wants:
                            writer.add(key, levels)
                advance(sum(key in gaps for key in found))

    def _batches(self, images: Sequence[ImageVariant]) -> list[list[ImageVariant]]:
        """The images in batches of one size each, so that none is padded."""
        by_size: dict[Size, list[ImageVariant]] = {}
        for image in images:
            record = self.source.records[image[0]]
            by_size.setdefault(self.data.resize.output_size((record.height, record.width)), []).append(image)
        step = self.data.batch_size
        return [group[at : at + step] for group in by_size.values() for at in range(0, len(group), step)]

    def _loader(self, batches: Sequence[list[ImageVariant]]) -> DataLoader[Sample]:
        return DataLoader(
            _Variants(self.source, self.data),
            batch_sampler=list(batches),
            **worker_options(self.data.workers),
            collate_fn=collate,
            generator=torch.Generator(),  # its own, so that the default one is untouched
        )

    def _network_target(self, image: ImageVariant) -> tuple[Size, Target]:
        """The size and the boxes that the network will see, without decoding the image."""
        index, variant = image
        record = self.source.records[index]
        blank = torch.empty(3, record.height, record.width, dtype=torch.uint8, device="meta")
        pixels, target = _transform(self.data, variant)(blank, ground_truth(record))
        return size_of(pixels), target


class _Variants(Dataset[Sample]):
    """The geometric variants of a source's images, by (index, variant)."""

    def __init__(self, source: DataSource, data: DataArgs) -> None:
        self.source, self.worker_progress = source, WorkerProgress(data.workers, data.worker_timeout)
        self.sets = [DetectionDataset(source, _transform(data, variant), self.worker_progress) for variant in (0, 1)]

    def __getitem__(self, image: ImageVariant) -> Sample:
        index, variant = image
        return self.sets[variant][Draw(index, 0, 0)]


def _transform(data: DataArgs, variant: int) -> Transform:
    return train_transform(data.resize, Augmentation(flip=float(variant)))
