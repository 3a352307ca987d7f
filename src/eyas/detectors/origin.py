"""How a detector was made, kept beside it so that it can be saved and made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eyas.types import Detector

ATTRIBUTE = "_eyas_origin"


@dataclass(frozen=True)
class Origin:
    """The call that made a detector.

    Attributes:
        model: a model that `eyas.build` knows, or package.module:function.
        backbone, options: as they were given to `eyas.build`.
    """

    model: str
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def with_origin(detector: Detector, origin: Origin) -> Detector:
    """The same detector, which `origin_of` knows from now on, unless it allows no further attribute."""
    try:
        setattr(detector, ATTRIBUTE, origin)
    except AttributeError:  # __slots__
        return detector
    return detector


def origin_of(detector: Detector) -> Origin | None:
    """How a detector was made; None where neither `eyas.build` nor `eyas.load` made it."""
    found: Origin | None = getattr(detector, ATTRIBUTE, None)
    return found
