"""Filling a teacher cache: how large it will be, then one pass of the teacher over what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eyas.args import DataArgs
from eyas.cache.store import CacheSize, TeacherCache
from eyas.cache.teacher import ImageVariant
from eyas.data import Augmentation, DataSource, DetectionDataset, collate, train_transform
from eyas.data.dataset import Draw, Sample, ground_truth
from eyas.data.transforms import Transform
from eyas.data.workers import WorkerProgress, name_failed_images, with_timeout, worker_options
from eyas.methods.imitation import FeatureImitation
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import tap_features
from eyas.ops.pixels import as_float
from eyas.types import Detector, Size, Target, View

SAMPLE = 500
"""Images whose masks the size is predicted from; where there are no more, it is exact."""


@dataclass(frozen=True, eq=False)
class CacheFiller:
    """Runs the teacher over the images whose records are missing.

    Attributes:
        teacher: on its device, in evaluation mode.
        taps: of its levels.
        methods: one for each cache.
        caches: in the order of the methods.
        source: the images.
        data: how they are fed; their random augmentation is not used.
        device: of the teacher.
        layout: of the images in memory.
        autocast: makes the context that the teacher runs in.
    """

    teacher: Detector
    taps: Sequence[str]
    methods: Sequence[FeatureImitation]
    caches: Sequence[TeacherCache]
    source: DataSource
    data: DataArgs
    device: torch.device
    layout: torch.memory_format
    autocast: Callable[[], AbstractContextManager[None]]

    def predict(self, missing: Sequence[set[bytes]], keys: Mapping[ImageVariant, bytes]) -> list[CacheSize]:
        """The size that each cache's missing records will have: exact up to `SAMPLE` records, an estimate above."""
        shapes = cache(self._map_sizes)
        predicted = []
        for method, store, gaps in zip(self.methods, self.caches, missing, strict=True):
            images = [image for image, key in keys.items() if key in gaps]
            sample = images[:: -(-len(images) // SAMPLE) or 1]
            total = CacheSize()
            for image in sample:
                size, target = self._network_target(image)
                total += store.predict(method.masks(self._blank_view(shapes(size), size), [target]))
            predicted.append(total.scaled(len(images) / max(len(sample), 1)))
        return predicted

    def run(
        self,
        missing: Sequence[set[bytes]],
        keys: Mapping[ImageVariant, bytes],
        rank: int,
        advance: Callable[[int], None],
    ) -> None:
        """Compute and write what is missing, in the batches that a whole filling has.

        The last bits of a vector depend on how many images are in its batch. This way a cache whose filling was
        interrupted, or that lost a part, ends with the same bits.

        Args:
            missing: the missing keys of each cache.
            keys: of the image variants that are this process's.
            rank: of this process.
            advance: called after each batch with the number of its images that were missing.
        """
        gaps = set().union(*missing)
        batches = [batch for batch in self._batches(list(keys)) if any(keys[image] in gaps for image in batch)]
        with ExitStack() as stack:
            writers = [stack.enter_context(store.writer(rank)) for store in self.caches]
            stack.enter_context(eval_mode(self.teacher.network))
            loader = self._loader(batches)
            stack.enter_context(name_failed_images(loader))
            for batch in with_timeout(loader, loader):
                images, targets = self._on_device(batch)
                found = [keys[target["index"], target["variant"]] for target in targets]
                with self.autocast():
                    view = self._view(images)
                for method, store, wants, writer in zip(self.methods, self.caches, missing, writers, strict=True):
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
            _Variants(self.source, self._transforms(), WorkerProgress(self.data.workers)),
            batch_sampler=list(batches),
            **worker_options(self.data.workers, self.data.worker_timeout),
            collate_fn=collate,
            generator=torch.Generator(),  # its own, so that the default one stays as it is
        )

    def _on_device(self, batch: tuple[Tensor, list[Target]]) -> tuple[Tensor, list[Target]]:
        images, targets = send_to_device(batch, self.device)
        return as_float(images).contiguous(memory_format=self.layout), targets

    def _transforms(self) -> dict[int, Transform]:
        return {variant: train_transform(self.data.resize, Augmentation(flip=float(variant))) for variant in (0, 1)}

    def _view(self, images: Tensor) -> View:
        features = tap_features(self.teacher, self.taps, images)
        levels = [self.teacher.levels[tap] for tap in self.taps]
        return View([features[tap] for tap in self.taps], levels, (images.shape[-2], images.shape[-1]))

    def _network_target(self, image: ImageVariant) -> tuple[Size, Target]:
        """The size and the boxes that the network will see, without decoding the image."""
        index, variant = image
        record = self.source.records[index]
        blank = torch.empty(3, record.height, record.width, dtype=torch.uint8, device="meta")
        pixels, target = self._transforms()[variant](blank, ground_truth(record))
        return (pixels.shape[-2], pixels.shape[-1]), target

    def _map_sizes(self, size: Size) -> list[torch.Size]:
        """The shapes of the teacher's maps for one image of a size."""
        with eval_mode(self.teacher.network):
            return [feature.shape for feature in self._view(torch.zeros(1, 3, *size, device=self.device)).features]

    def _blank_view(self, shapes: Sequence[torch.Size], size: Size) -> View:
        levels = [self.teacher.levels[tap] for tap in self.taps]
        return View([torch.zeros(()).expand(shape) for shape in shapes], levels, size)


class _Variants(Dataset[Sample]):
    """The geometric variants of a source's images, by (index, variant)."""

    def __init__(
        self, source: DataSource, transforms: Mapping[int, Transform], worker_progress: WorkerProgress
    ) -> None:
        self.source, self.worker_progress = source, worker_progress
        self.sets = {
            variant: DetectionDataset(source, transform, worker_progress) for variant, transform in transforms.items()
        }

    def __getitem__(self, image: ImageVariant) -> Sample:
        index, variant = image
        return self.sets[variant][Draw(index, 0, 0)]
