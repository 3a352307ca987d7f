"""What has run out, by the errors that libraries raise for it, word for word."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from eyas.tools.shortage import DEVICE, FILES, MEMORY, PROCESSES, SHARED, TEMPORARY, shortage
from eyas.types import EyasError

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "737280000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), MEMORY),
        (RuntimeError(CPU), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), MEMORY),
        (RuntimeError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback"), MEMORY),
        (ImportError("libx.so: failed to map segment from shared object"), MEMORY),
        (ImportError("libx.so: failed to map segment: Cannot allocate memory"), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), DEVICE),
        (RuntimeError("CUDA error: out of memory"), DEVICE),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), DEVICE),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), DEVICE),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "image.png"), FILES),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), FILES),
        (RuntimeError("received 0 items of ancdata"), FILES),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_8_1_0>: No space left (28)"), SHARED),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "), SHARED),
        (
            RuntimeError("unable to open shared memory object </torch_8_1_0> in read-write mode: Too many open files"),
            FILES,
        ),
        (RuntimeError("unable to mmap 64 bytes from file </torch_8_1_0>: Cannot allocate memory (12)"), MEMORY),
        (RuntimeError("unable to write to file </torch_8_1_0>: No space left on device (28)"), SHARED),
        (RuntimeError("can't start new thread"), PROCESSES),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/x']"), TEMPORARY),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), PROCESSES),
    ],
)
def test_the_errors_of_libraries(error: Exception, what: str) -> None:
    assert shortage(error) == what
    wrapped = ValueError("the last one of several")
    wrapped.__cause__ = error
    assert shortage(wrapped) == what


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes (2, 3) and (4, 5) do not fit"),
        ImportError("libx.so: failed to map segment from shared object: Operation not permitted"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        FileNotFoundError(errno.ENOENT, "No such file", "/dev/shm/run"),
        EyasError("memory.png: MemoryError, too many open files"),
    ],
)
def test_other_errors(error: Exception) -> None:
    assert shortage(error) is None


def test_a_message_keeps_its_cause() -> None:
    """Where memory is exhausted, what is said about a file is not the reason."""
    error = EyasError("image.png: cannot be decoded")
    error.__cause__ = MemoryError()
    assert shortage(error) == MEMORY


def test_an_error_that_was_dealt_with_is_no_cause() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("another matter") from None
    except ValueError as error:
        assert shortage(error) is None


@pytest.mark.parametrize("text", [SHARED, DEVICE, FILES, MEMORY, PROCESSES])
def test_every_message_has_advice(text: str) -> None:
    assert any(word in text for word in ("lower", "fewer", "raise the limit"))
