"""A teacher that is not run, and need not even be there: what it would say is in a cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from eyas.cache.store import TeacherCache
from eyas.methods import Method
from eyas.methods.imitation import CachedView
from eyas.types import EyasError, Level, Prediction, Target

Place = tuple[int, int]
"""(index of a record, geometric variant)."""


@dataclass(frozen=True)
class LevelSummary:
    """What is known of a teacher's feature level without the teacher.

    Attributes:
        channels: of the map.
        stride: pixels per cell.
        rectified: the map is never negative.
    """

    channels: int
    stride: int
    rectified: bool


@dataclass(frozen=True)
class TeacherSummary:
    """What is known of a teacher without loading it.

    Attributes:
        identity: digest of its weights and architecture.
        classes: its class names, in label order.
        levels: tap name -> level.
    """

    identity: str
    classes: tuple[str, ...]
    levels: Mapping[str, LevelSummary]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TeacherSummary:
        levels = {name: LevelSummary(**level) for name, level in values["levels"].items()}
        return cls(values["identity"], tuple(values["classes"]), levels)


class CachedTeacher(nn.Module):
    """Takes a detector's place as the teacher of an `eyas.Distiller`: levels that are known, vectors that are cached.

    Args:
        known: the teacher.

    Attributes:
        rectified: tap name -> whether that level is never negative.
    """

    def __init__(self, known: TeacherSummary) -> None:
        super().__init__()
        self.classes = known.classes
        self.levels = {name: Level(level.channels, level.stride) for name, level in known.levels.items()}
        self.rectified = {name: level.rectified for name, level in known.levels.items()}
        self._caches: Mapping[str, TeacherCache] = {}
        self._keys: Mapping[Place, bytes] = {}

    @property
    def network(self) -> nn.Module:
        """Itself, without any parameter."""
        return self

    def attach(self, caches: Mapping[str, TeacherCache], keys: Mapping[Place, bytes]) -> None:
        """Give it what it answers from: the cache of each method, by name, and the key of each image and variant."""
        self._caches, self._keys = caches, keys

    def view(
        self, images: Tensor, targets: Sequence[Target], methods: Iterable[Method], taps: Sequence[str]
    ) -> CachedView:
        """What the methods want of the teacher for a batch, on the device of the images.

        Raises:
            EyasError: targets that do not say which image, or which variant of it, they belong to.
        """
        if not all("index" in target and "variant" in target for target in targets):
            raise EyasError("a cached teacher needs targets with index and variant, as eyas.data.loader makes them")
        keys = [self._keys[target["index"], target["variant"]] for target in targets]
        wanted = {method.name: self._caches[method.name].read(keys, images.device) for method in methods}
        size = (images.shape[-2], images.shape[-1])
        return CachedView((), [self.levels[tap] for tap in taps], size, wanted=wanted)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        raise EyasError("a cached teacher cannot be run")

    def predict(self, images: Tensor) -> list[Prediction]:
        raise EyasError("a cached teacher cannot be run")
