"""The short form of `faults.images`: image files of every kind with their bytes changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.images import attempt, fuzz, kinds

KINDS = kinds()


@pytest.mark.parametrize("name", KINDS)
def test_changed_bytes_are_read_or_refused(name: str, tmp_path: Path) -> None:
    outcomes, failed = fuzz(name, KINDS[name], tmp_path, 40, seed=1)
    assert failed == [] and outcomes.total() == 40


@pytest.mark.parametrize("name", KINDS)
def test_a_file_in_order_is_read_unless_it_is_deep(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(KINDS[name])
    assert attempt(tmp_path / name) == ("refused" if name.startswith("16_bits") else "read")
