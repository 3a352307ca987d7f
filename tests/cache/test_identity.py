"""The digest by which a cache knows a teacher that code makes."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from eyas.cache.identity import detector_digest
from helpers.tiny import poor_teacher

PAIRS = torch.arange(6.0).reshape(3, 2)
BUFFERS = {
    "empty": torch.empty(0),
    "empty with rows": torch.empty(3, 0),
    "scalar": torch.tensor(1.5),
    "expanded": torch.arange(1.0).expand(4, 1),
    "one entry of an expanded row": torch.arange(2.0).expand(3, 2)[:1].t()[:1],
    "every fifth": torch.arange(5.0)[::5],
    "transposed": PAIRS.t(),
    "half": PAIRS.half(),
    "bool": PAIRS > 2,
    "complex": torch.view_as_complex(PAIRS),
    "conjugated": torch.view_as_complex(PAIRS).conj(),
    "negated": torch.view_as_complex(PAIRS).conj().imag,
    "sparse": PAIRS.to_sparse(),
}


def digest(buffer: Tensor | None = None) -> str:
    """The digest of a detector with a buffer of that value."""
    detector = poor_teacher()
    if buffer is not None:
        detector.network.register_buffer("more", buffer)
    return detector_digest(detector)


def test_every_buffer_has_a_digest() -> None:
    digests = {name: digest(buffer) for name, buffer in BUFFERS.items()}
    assert len(set(digests.values())) == len(BUFFERS) and digest() not in digests.values()
    assert digests == {name: digest(buffer.clone()) for name, buffer in BUFFERS.items()}


def test_strides_do_not_matter_and_values_do() -> None:
    assert digest(PAIRS.t()) == digest(PAIRS.t().contiguous()) != digest(PAIRS.t() + 1)
    assert digest(PAIRS.to_sparse()) == digest(PAIRS)


def test_the_digest_is_that_of_the_bytes() -> None:
    """As it was when caches were first keyed by it."""
    detector, expected = poor_teacher(), hashlib.sha256()
    for name, value in sorted(detector.network.state_dict().items()):
        expected.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        expected.update(value.numpy().tobytes())
    detector.levels = {}
    assert detector_digest(detector) == expected.hexdigest()
