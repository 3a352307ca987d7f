"""Autocast by its type."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context that computes in a type of 16 bits; float32 is no type of autocast, and changes nothing."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
