"""From ``--cache DIR`` to a teacher that answers from it: find what is missing, fill it in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from eyas.args import CacheDtype, DataArgs, RunArgs
from eyas.cache.fill import SAMPLE, CacheFiller
from eyas.cache.identity import TeacherOnDemand, read_json
from eyas.cache.store import (
    CacheSize,
    TeacherCache,
    adopt_format_1,
    cache_folder,
    digest_of,
    fingerprint,
    image_digest,
    publish,
    record_key,
)
from eyas.cache.teacher import CachedTeacher, ImageVariant, LevelSummary, TeacherSummary
from eyas.data import DataSource
from eyas.distillation.teachers import RunningTeacher
from eyas.evaluation import EvaluationResult
from eyas.methods import LevelPair, Method
from eyas.methods.imitation import FeatureImitation
from eyas.nn.fold_batchnorm import fold_teacher
from eyas.tools.files import make_folder
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError


class CacheSession:
    """The teacher of a run, from a cache.

    Args:
        root: the folder of the user's caches.
        dtype: of new records.
        teacher: the teacher.
        methods: what is distilled.
        train: the images that are trained on.
        data: how they are fed.
        run: the run.
        accelerator: of the run.
        progress: prints what happens.

    Raises:
        EyasError: an augmentation with unlimited variants, a method whose teacher cannot be cached, or no such teacher.
    """

    def __init__(
        self,
        root: Path,
        dtype: CacheDtype,
        teacher: TeacherOnDemand,
        methods: Sequence[Method],
        *,
        train: DataSource,
        data: DataArgs,
        run: RunArgs,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.variants = data.augment.variants()
        for method in methods:
            method.fingerprint()
        self.root, self.dtype, self._on_demand = root, dtype, teacher
        self.methods = cast(Sequence[FeatureImitation], methods)  # only these have a fingerprint()
        self.train, self.data, self.run = train, data, run
        self.accelerator, self.progress = accelerator, progress
        make_folder(root)
        self.summary = self._summarise()
        self.teacher = CachedTeacher(self.summary)

    def prepare(self, pairs: Sequence[LevelPair]) -> None:
        """Compute the missing records, print the size of the cache, and let `teacher` answer from it."""
        keys = self._keys()
        stores = self._stores(pairs)
        representatives = {store.folder: method for store, method in zip(stores.values(), self.methods, strict=True)}
        unique = {store.folder: store for store in stores.values()}
        self._fill(list(representatives.values()), list(unique.values()), [pair.teacher_tap for pair in pairs], keys)
        for method, store in zip(representatives.values(), unique.values(), strict=True):
            size = store.measure(keys.values())
            self.progress.say(f"cache     {method.name}: {size}")
        self.teacher.attach(stores, keys)
        self._on_demand.forget()

    def score(self, val: DataSource, metric: str, score: Callable[[Detector], EvaluationResult]) -> EvaluationResult:
        """The teacher's evaluation, remembered from the last time or made now."""
        digests = [digest.hex() for digest in self._digests(val)]
        asked = digest_of([metric, list(val.classes), asdict(self.data.resize), digests])
        path = self.root / f"score-{self.summary.identity[:12]}-{asked[:12]}.json"
        if path.is_file():
            with _readable(path):
                return _result_from_json(read_json(path))
        result = score(self._on_demand.detector)
        if self.accelerator.is_main_process:
            publish(path, asdict(result))
        return result

    def _summarise(self) -> TeacherSummary:
        """The teacher as the cache knows it, or from the teacher itself, and then noted in the cache under its name."""
        identity = self._on_demand.identity(self.root)
        path = self.root / f"teacher-{identity[:12]}.json"
        values: dict[str, Any] = {"names": []}
        if path.is_file():
            values = read_json(path)
        else:
            values |= summarise_teacher(self._on_demand.detector, identity).to_json()
        with _readable(path):
            known = TeacherSummary.from_json({key: value for key, value in values.items() if key != "names"})
            new = self._on_demand.name not in values["names"]
            if new:
                values["names"].append(self._on_demand.name)
        if new and self.accelerator.is_main_process:
            publish(path, values)
        return known

    def _stores(self, pairs: Sequence[LevelPair]) -> dict[str, TeacherCache]:
        """The cache of each method, by its name; methods of the same cells share one."""
        channels = [pair.teacher.channels for pair in pairs]
        stores: dict[Path, TeacherCache] = {}
        by_name = {}
        for method in self.methods:
            shared = fingerprint(
                method,
                teacher=self.summary.identity,
                taps=[pair.teacher_tap for pair in pairs],
                resize=asdict(self.data.resize),
                dtype=self.dtype,
                precision=self.accelerator.mixed_precision,
            )
            adopt_format_1(self.root, shared)
            folder = cache_folder(self.root, shared)
            if folder not in stores:
                stores[folder] = TeacherCache(folder, shared, channels, self.dtype)
            by_name[method.name] = stores[folder]
        return by_name

    def _fill(
        self,
        methods: Sequence[FeatureImitation],
        stores: Sequence[TeacherCache],
        taps: Sequence[str],
        keys: Mapping[ImageVariant, bytes],
    ) -> None:
        mine = {image: key for image, key in keys.items() if self._is_mine(image[0])}
        missing = [store.missing(mine.values()) for store in stores]
        filling = self._filling(methods, stores, taps) if any(missing) else None
        self._announce(methods, [] if filling is None else filling.predict(missing, mine))
        if filling is not None:
            task = self.progress.task("cache", len({key for gaps in missing for key in gaps}))
            filling.run(
                missing, mine, self.accelerator.process_index, lambda images: self.progress.advance(task, images)
            )
            self.progress.finish(task)
        self.accelerator.wait_for_everyone()
        for store in stores:
            store.refresh()
            if not store.holds(keys.values()):
                raise EyasError(f"{store.folder}: lacks records just written; give all processes one --cache folder")

    def _filling(
        self, methods: Sequence[FeatureImitation], stores: Sequence[TeacherCache], taps: Sequence[str]
    ) -> CacheFiller:
        """Loads the teacher."""
        fold_teacher(self._on_demand.detector, self.progress.say)  # as a run without a cache has it, bit by bit
        return CacheFiller(
            teacher=self._on_demand.detector,
            taps=taps,
            methods=methods,
            caches=stores,
            source=self.train,
            data=self.data,
            device=self.accelerator.device,
            layout=torch.channels_last if self.run.channels_last else torch.contiguous_format,
            autocast=self.accelerator.autocast,
        )

    def _announce(self, methods: Sequence[Method], predicted: Sequence[CacheSize]) -> None:
        """Print how much all processes together are about to write for each method."""
        everyone: list[Sequence[CacheSize]] = gather_object([predicted])
        for at, method in enumerate(methods):
            total = sum((sizes[at] for sizes in everyone if sizes), start=CacheSize())
            if total.records:
                how = "; estimated" if total.records > SAMPLE else ""
                self.progress.say(f"cache     {method.name}: to write, {total}{how}")

    def _keys(self) -> dict[ImageVariant, bytes]:
        """The key of every image and variant that training can ask for."""
        digests = self._digests(self.train)
        return {(at, v): record_key(image, v) for at, image in enumerate(digests) for v in self.variants}

    def _digests(self, source: DataSource) -> list[bytes]:
        """The digest of every image of a source; the processes share the reading."""
        task = self.progress.task("check", len(source.records))
        mine = {}
        for index, record in enumerate(source.records):
            if self._is_mine(index):
                mine[index] = image_digest(record)
            self.progress.advance(task)
        self.progress.finish(task)
        shards: list[dict[int, bytes]] = gather_object([mine])
        found = {index: digest for shard in shards for index, digest in shard.items()}
        return [found[index] for index in range(len(source.records))]

    def _is_mine(self, index: int) -> bool:
        return bool(index % self.accelerator.num_processes == self.accelerator.process_index)


def summarise_teacher(detector: Detector, identity: str) -> TeacherSummary:
    """A teacher as a cache remembers it."""
    rectified = RunningTeacher(detector).rectified(list(detector.levels))
    levels = {
        name: LevelSummary(level.channels, level.stride, rectified[name]) for name, level in detector.levels.items()
    }
    return TeacherSummary(identity, tuple(detector.classes), levels)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Interpret a file of the cache inside. Raises EyasError when it is not one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EyasError(f"{path}: not a file of this cache ({error!r}); remove it, and it is made again") from error


def _result_from_json(values: Mapping[str, Any]) -> EvaluationResult:
    """Undefined metrics are null in JSON."""

    def numbers(entries: Mapping[str, float | None]) -> dict[str, float]:
        return {name: math.nan if value is None else value for name, value in entries.items()}

    per_class = {name: numbers(entries) for name, entries in values["per_class"].items()}
    return EvaluationResult(values["metric"], numbers(values["summary"]), per_class)
