"""A teacher that answers from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyas.cache.store import TeacherCache
from eyas.distillation.teachers import TeacherRequest
from eyas.methods.cells import CachedView, Extents, TeacherTargets
from eyas.tools.timing import span
from eyas.types import EyasError, Level, size_of

ImageVariant = tuple[int, int]
"""(index of a record, its geometric variant: 0 as it is, 1 flipped)."""
MAX_CHANNELS = 2**16
"""Channels that a file may claim for a map."""


@dataclass(frozen=True)
class LevelSummary:
    """A feature level of a teacher that is not loaded."""

    channels: int
    stride: int
    rectified: bool
    """Whether the map is never negative."""

    def __post_init__(self) -> None:
        if not (0 < self.channels <= MAX_CHANNELS and self.stride > 0):  # a file states them
            raise ValueError(f"a level of {self.channels} channels at stride {self.stride}")


@dataclass(frozen=True)
class TeacherSummary:
    """A teacher that is not loaded. `dataclasses.asdict` makes what its file holds."""

    identity: str
    """Digest of its weights and architecture."""
    classes: tuple[str, ...]
    levels: Mapping[str, LevelSummary]
    """By tap name."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TeacherSummary:
        """Raises KeyError, TypeError, ValueError or AttributeError for values of another form."""
        levels = {name: LevelSummary(**level) for name, level in values["levels"].items()}
        classes = tuple(values["classes"])
        if not all(isinstance(name, str) and name.isprintable() for name in (values["identity"], *classes, *levels)):
            raise ValueError("names must be printable texts")
        return cls(values["identity"], classes, levels)


class CachedTeacher:
    """Answers from the cache; no teacher network runs. An `eyas.distillation.teachers.Teacher`."""

    networks = ()

    def __init__(self, summary: TeacherSummary) -> None:
        self.summary, self.classes = summary, summary.classes
        self.levels = {name: Level(level.channels, level.stride) for name, level in summary.levels.items()}
        self._caches: Mapping[str, TeacherCache] = {}
        self._keys: Mapping[ImageVariant, bytes] = {}

    def attach(self, caches: Mapping[str, TeacherCache], keys: Mapping[ImageVariant, bytes]) -> None:
        """Set what it answers from: the cache of each method, by name, and the key of each image variant."""
        self._caches, self._keys = caches, keys

    def rectified(self, taps: Sequence[str]) -> dict[str, bool]:
        """As recorded from the teacher when the cache was made."""
        return {tap: self.summary.levels[tap].rectified for tap in taps}

    @span("teacher")
    def view(self, request: TeacherRequest) -> CachedView:
        """The vectors of each method, read when the method asks for them, on the device of the images.

        Raises:
            EyasError: targets without the index of their image and its variant.
        """
        images, targets = request.images, request.targets
        if not all("index" in target and "variant" in target for target in targets):
            raise EyasError("a cached teacher needs targets with index and variant, as eyas.data.loader makes them")
        keys = [self._keys[target["index"], target["variant"]] for target in targets]

        def read(method: str, extents: Extents | None) -> list[TeacherTargets]:
            with span("teacher"):
                return self._caches[method].read(keys, images.device, extents)

        def count(method: str, extents: Extents) -> int:
            return self._caches[method].count(keys, extents)

        levels = [self.levels[tap] for tap in request.taps]
        return CachedView((), levels, size_of(images), read=read, count=count)

    def outline(self, request: TeacherRequest) -> CachedView:
        """The same as `view`, which reads nothing by itself."""
        return self.view(request)
