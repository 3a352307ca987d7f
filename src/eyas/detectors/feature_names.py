"""Names of foundation models as sources of features: ``features:timm:NAME``, ``features/16:transformers:ID``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eyas.detectors.library import imported
from eyas.types import EyasError

if TYPE_CHECKING:
    from eyas.detectors.features import FeatureSource

FORM = re.compile(r"features(/(?P<stride>[1-9]\d{0,3}))?:(?P<library>\w+):(?P<model>[^@]+)(@(?P<weights>.+))?")
STRIDE = 32
"""Pixels of the student's image to a cell, where the name does not say: what RT-DETRv4 imitates."""
OPENERS: Mapping[str, str] = {
    "timm": "eyas.detectors.timm_features:open_features",
    "transformers": "eyas.detectors.transformers.features:open_features",
}
"""Library -> "module:function", from model, stride and file of weights, None for the model's own, to the source."""


@dataclass(frozen=True)
class FeatureName:
    """A model of a library, of whose last map a cell is to cover ``stride`` pixels of the student's image."""

    library: str
    model: str
    stride: int = STRIDE
    weights: Path | None = None

    @classmethod
    def parse(cls, name: str) -> FeatureName | None:
        """What a name stands for; None where it is not of this form. Raises EyasError for another library."""
        found = FORM.fullmatch(name)
        if found is None:
            return None
        if found["library"] not in OPENERS:
            raise EyasError(f"{name}: features come from {' or '.join(OPENERS)}, as features:timm:NAME")
        weights = None if found["weights"] is None else Path(found["weights"])
        return cls(found["library"], found["model"], int(found["stride"] or STRIDE), weights)

    def open(self) -> FeatureSource:
        """The source, in evaluation mode on the CPU. Raises EyasError when there is none."""
        source: FeatureSource = imported(OPENERS[self.library])(self.model, self.stride, self.weights)
        return source.eval()
