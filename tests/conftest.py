"""Every test starts from the same random state."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test that draws its weights draws the same ones every time and in every order of tests."""
    torch.manual_seed(0)
