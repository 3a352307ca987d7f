"""What a machine has run out of, recognised in any error: memory, shared memory, open files, processes, disk."""

from __future__ import annotations

import errno
import re

from eyas.tools.causes import causes
from eyas.types import EyasError

FEWER = "lower the batch size (--dataset.batch_size), the size of the images (--dataset.resize) or --dataset.workers"
SHARED = (
    "shared memory is full: /dev/shm cannot hold the batches of the data workers. Enlarge it (docker run "
    "--shm-size=8g), or give fewer workers (--dataset.workers 0 needs none) or smaller batches (--dataset.batch_size)"
)
MEMORY = f"memory is exhausted: {FEWER}, or end other programs"
DEVICE = (
    "the memory of the GPU is exhausted: lower the batch size (--dataset.batch_size) or the size of the images "
    "(--dataset.resize), take --run.precision bf16, or end other programs that use the GPU"
)
FILES = "too many files are open: raise the limit (ulimit -n 4096), or give fewer workers (--dataset.workers)"
TEMPORARY = (
    "no folder for temporary files can be written: neither /tmp nor /var/tmp nor the working folder; free some space "
    "there, or name another one by the environment variable TMPDIR"
)
PROCESSES = "no more processes or threads can be started: raise the limit (ulimit -u), or give fewer workers"

SHORTAGES = (SHARED, DEVICE, FILES, MEMORY, PROCESSES, TEMPORARY)

KINDS = (
    (r"too many open files|items of ancdata", FILES),
    (r"shared memory ?\(shm\)|</?torch_\d+.*no space left|bus error", SHARED),
    (r"(cuda|mps|hip|xpu|gpu)\b.*out of memory|CU\w+_STATUS_ALLOC_FAILED|OutOfMemoryError", DEVICE),
    (r"can't allocate memory|cannot allocate memory|bad_alloc|MemoryError", MEMORY),
    (r"failed to map segment from shared object(?!: operation not permitted)", MEMORY),
    (r"no usable temporary directory", TEMPORARY),
    (r"can't start new thread|resource temporarily unavailable", PROCESSES),
)
"""Pattern of an error's kind and text -> what to say; the first one counts. Libraries have no classes or numbers of
their own for these."""
NUMBERS = {errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY, errno.EAGAIN: PROCESSES}


def shortage(error: BaseException) -> str | None:
    """What has run out, and what to do; None where the error, and the errors that caused it, have another reason."""
    for cause in causes(error):
        if isinstance(cause, EyasError):
            continue
        if isinstance(cause, OSError) and cause.errno in NUMBERS:
            return NUMBERS[cause.errno]
        text = f"{type(cause).__name__} {cause}"
        for pattern, said in KINDS:
            if re.search(pattern, text, re.IGNORECASE):
                return said
    return None
