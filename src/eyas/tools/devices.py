"""The device that a command runs on."""

from __future__ import annotations

from typing import Literal

import torch


def pick_device(device: Literal["auto", "cpu"]) -> torch.device:
    """The accelerator for "auto" where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator if device == "auto" and accelerator is not None else torch.device("cpu")
