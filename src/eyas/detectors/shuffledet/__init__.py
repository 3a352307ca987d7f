"""ShuffleDet, the small one-stage detector of the FGFI paper."""

from __future__ import annotations

from eyas.detectors.library import Library

LIBRARY = Library(
    adapter="eyas.detectors.shuffledet.adapter:ShuffleDet",
    builders={"shuffledet": "eyas.detectors.shuffledet.adapter:ShuffleDet"},
    predictors=("head.",),
)
