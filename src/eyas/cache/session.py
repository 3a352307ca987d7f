"""From ``--cache DIR`` to a teacher that answers from it: find what is missing, fill it in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import gather_object

from eyas.args import CacheDtype, DataArgs
from eyas.cache.fill import SAMPLE, Cached, CacheFiller
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.store import (
    CacheSize,
    TeacherCache,
    cache_folder,
    digest_of,
    fingerprint,
    read_cached,
    record_key,
)
from eyas.cache.teacher import CachedTeacher, ImageVariant, LevelSummary, TeacherSummary
from eyas.data import DataSource
from eyas.data.identity import record_digest
from eyas.data.images import content_digests
from eyas.distillation.teachers import RunningTeacher
from eyas.evaluation import EvaluationResult
from eyas.methods import LevelPair, Method
from eyas.methods.cells import CellMethod
from eyas.nn.fold_batchnorm import fold_teacher
from eyas.runs.log import are_metrics, are_metrics_of_classes
from eyas.runs.results import nulls_as_nan
from eyas.tools.files import make_folder, write_json
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError


class CacheSession:
    """The teacher of a run, from the user's caches in the folder ``root``; new records have vectors of type ``dtype``.

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
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.variants = data.augment.variants()
        for method in methods:
            method.fingerprint()
        self.root, self.dtype, self._on_demand = root, dtype, teacher
        self.methods = cast(Sequence[CellMethod], methods)  # only these have a fingerprint()
        self.train, self.data, self.accelerator, self.progress = train, data, accelerator, progress
        make_folder(root)
        self.teacher = CachedTeacher(self._summarise())

    def prepare(self, pairs: Sequence[LevelPair]) -> float | None:
        """Compute the missing records, print the size of the cache, and let `teacher` answer from it.

        Returns:
            How long filling it takes from nothing, by what was filled, in this run or before; None where no filling
            was timed.
        """
        digests = self._digests(self.train)
        keys = {
            (at, variant): record_key(image, variant) for at, image in enumerate(digests) for variant in self.variants
        }
        stores = self._stores(pairs)
        by_folder = {store.folder: (method, store) for method, store in zip(self.methods, stores.values(), strict=True)}
        cached = list(by_folder.values())
        self._fill(cached, [pair.teacher_tap for pair in pairs], keys)
        for method, store in cached if self.accelerator.is_main_process else ():  # it reads from every record
            self.progress.say(f"cache     {method.name}: {store.measure(keys.values())}")
        self.teacher.attach(stores, keys)
        self._on_demand.forget()
        seconds = [store.filling_seconds(len(keys)) for _, store in cached]
        known = [each for each in seconds if each is not None]
        return sum(known) if len(known) == len(seconds) else None

    def score(self, val: DataSource, metric: str, score: Callable[[Detector], EvaluationResult]) -> EvaluationResult:
        """The teacher's evaluation, from the cache or made now."""
        digests = [digest.hex() for digest in self._digests(val)]
        asked = digest_of([metric, list(val.classes), asdict(self.data.resize), digests])
        path = self.root / f"score-{self.teacher.summary.identity[:12]}-{asked[:12]}.json"
        if path.is_file():
            with _readable(path):
                values = read_cached(path)
                rules, summary, classes = values["metric"], values["summary"], values["per_class"]
                if not isinstance(rules, str) or not summary:
                    raise ValueError("no evaluation")
                if not are_metrics(summary) or not are_metrics_of_classes(classes):
                    raise ValueError("metrics are numbers")
                per_class = {name: nulls_as_nan(entries) for name, entries in classes.items()}
                return EvaluationResult(rules, nulls_as_nan(summary), per_class)
        result = score(self._on_demand.detector)
        if self.accelerator.is_main_process:
            self._remember(path, asdict(result))
        return result

    def _summarise(self) -> TeacherSummary:
        """The teacher's summary from the cache; if it has none, from the teacher, and then stored under its name."""
        identity, name = self._on_demand.identity(self.root), self._on_demand.source.name
        path = self.root / f"teacher-{identity[:12]}.json"
        if path.is_file():
            values = read_cached(path)
        else:
            values = {"names": [], **asdict(summarise_teacher(self._on_demand.detector, identity))}
        with _readable(path):
            known = TeacherSummary.from_json(values)
            if known.identity != identity:
                raise ValueError("of another teacher")
            new = name not in values["names"]
            values["names"] = [*values["names"], name]
        if new and self.accelerator.is_main_process:
            self._remember(path, values)
        return known

    def _remember(self, path: Path, values: Mapping[str, Any]) -> None:
        """Write what is only remembered: a complete cache also serves where it cannot be written."""
        if os.access(self.root, os.W_OK):
            write_json(path, values)
        else:
            self.progress.say(f"cache     {self.root} is read-only: {path.name} is not kept")

    def _stores(self, pairs: Sequence[LevelPair]) -> dict[str, TeacherCache]:
        """The cache of each method, by its name; methods of the same cells share one."""
        channels = [pair.teacher.channels for pair in pairs]
        stores: dict[Path, TeacherCache] = {}
        by_name = {}
        for method in self.methods:
            shared = fingerprint(
                method,
                teacher=self.teacher.summary.identity,
                taps=[pair.teacher_tap for pair in pairs],
                resize=asdict(self.data.resize),
                dtype=self.dtype,
                precision=self.accelerator.mixed_precision,
            )
            folder = cache_folder(self.root, shared)
            if folder not in stores:
                stores[folder] = TeacherCache(folder, shared, channels, self.dtype)
            by_name[method.name] = stores[folder]
        return by_name

    def _fill(self, cached: Sequence[Cached], taps: Sequence[str], keys: Mapping[ImageVariant, bytes]) -> None:
        mine = {image: key for image, key in keys.items() if self._is_mine(image[0])}
        missing = [store.missing(mine.values()) for _, store in cached]
        filler = CacheFiller(self._on_demand, taps, cached, self.train, self.data, self.accelerator)
        if any(missing):
            fold_teacher(self._on_demand.detector, self.progress.say)  # as in a run without a cache, bit for bit
        self._announce(cached, filler.predict(missing, mine))
        if any(missing):
            task, begin = self.progress.task("cache", len(set().union(*missing))), time.perf_counter()
            try:
                filler.run(missing, mine, partial(self.progress.advance, task))
            finally:  # what was filled stays, and so does the time that it took
                self._remember_filling(cached, missing, time.perf_counter() - begin)
            self.progress.finish(task)
        self.accelerator.wait_for_everyone()
        for _, store in cached:
            store.refresh()
            if not store.holds(keys.values()):
                raise EyasError(f"{store.folder}: lacks records just written; give all processes one --cache folder")

    def _remember_filling(self, cached: Sequence[Cached], missing: Sequence[set[bytes]], seconds: float) -> None:
        """Remember how long a pass of the teacher took; the caches that it filled share it."""
        if self.accelerator.is_main_process:
            for _, store in cached:
                store.refresh()
            counts = [(store, store.count_held(gaps)) for (_, store), gaps in zip(cached, missing, strict=True)]
            filled = [(store, count) for store, count in counts if count]
            for store, count in filled:  # the other processes filled as many in the same time
                store.add_filling(count * self.accelerator.num_processes, seconds / len(filled))

    def _announce(self, cached: Sequence[Cached], predicted: Sequence[CacheSize]) -> None:
        """Print how much all processes together are about to write for each method."""
        everyone: list[Sequence[CacheSize]] = gather_object([predicted])
        for (method, _), sizes in zip(cached, zip(*everyone, strict=True), strict=True):
            total = sum(sizes, start=CacheSize())
            if total.records:
                how = "; estimated" if total.records > SAMPLE else ""
                self.progress.say(f"cache     {method.name}: to write, {total}{how}")

    def _digests(self, source: DataSource) -> list[bytes]:
        """The digest of every image of a source; the processes share the reading."""
        own = [index for index in range(len(source.records)) if self._is_mine(index)]
        task = self.progress.task("check", len(own))
        records = [source.records[index] for index in own]
        contents = content_digests(records, source.root, partial(self.progress.advance, task))
        self.progress.finish(task)
        mine = {at: record_digest(*pair) for at, pair in zip(own, zip(records, contents, strict=True), strict=True)}
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
    """Within the context, parse a file of the cache. Raises EyasError when it is not one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EyasError(f"{path}: not a file of this cache ({error!r}); remove it, and it is made again") from error
