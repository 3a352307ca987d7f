"""The device that a command runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


def pick_device(device: Literal["auto", "cpu"]) -> torch.device:
    """The accelerator for "auto" where there is one, else the CPU."""
    import torch  # here, so that a command's options are parsed without it

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator if device == "auto" and accelerator is not None else torch.device("cpu")
