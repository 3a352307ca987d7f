"""Which files are checkpoints of the rfdetr package."""

from __future__ import annotations

import re
from pathlib import Path

from eyas.tools.pickle_bytes import pickle_bytes

RFDETR = re.compile(rb"backbone\.0\.encoder\.(encoder\.embeddings|base_model)\.")
"""In the names of its tensors; other packages name them otherwise."""


def is_rfdetr(name: str | Path) -> bool:
    """Whether a file is a checkpoint of rfdetr, by the names of its tensors."""
    return RFDETR.search(pickle_bytes(Path(name))) is not None
