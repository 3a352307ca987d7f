"""Conversion from uint8 to float, and the colour of padding."""

from __future__ import annotations

import torch

from eyas import as_float
from eyas.ops.pixels import FILL, filled


def test_uint8_becomes_float_and_floats_pass_unchanged() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    torch.testing.assert_close(as_float(images), images.float() / 255, rtol=1e-6, atol=0)
    assert as_float(images)[0, 0, 15, 15] == 1
    half = torch.rand(2, 3, 4, 4).half()
    assert as_float(half) is half


def test_padding_has_the_same_colour_as_uint8_and_as_float() -> None:
    whole = filled(2, 3, 5, like=torch.zeros(1, dtype=torch.uint8))
    assert whole.dtype == torch.uint8 and whole.shape == (2, 3, 3, 5)
    assert torch.equal(whole[1, :, 2, 4], torch.tensor(FILL, dtype=torch.uint8))
    assert torch.equal(as_float(whole), filled(2, 3, 5, like=torch.zeros(1)))
