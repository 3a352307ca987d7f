"""What a ``.pt`` file holds, told from the bytes of its pickle: nothing is unpickled, and no torch is imported."""

from __future__ import annotations

import zipfile
from pathlib import Path

SUFFIXES = (".pt", ".pth")
LIMIT = 16 * 1024**2
"""Bytes of the pickle that are read; names and shapes of 100,000 tensors."""


def pickle_bytes(path: Path) -> bytes:
    """The pickle in an archive of ``torch.save``, where names of tensors stand in clear; empty for any other file."""
    if path.suffix not in SUFFIXES or not zipfile.is_zipfile(path):
        return b""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
            with archive.open(name) as file:
                return file.read(LIMIT)
    except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):  # damaged, or of another kind
        return b""
