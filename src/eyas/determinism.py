"""The same numbers twice: what torch leaves to chance for speed, made certain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eyas.types import EyasError


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Inside, where ``on``, torch, cuDNN and cuBLAS take algorithms that give the same numbers every time.

    The random numbers of a run come from its seed in any case, and do not depend on the number of data workers; this is
    about the order in which a device adds. Enter it before the first work on a GPU: cuBLAS reads its setting then.

    Raises:
        EyasError: an operation has no such algorithm on the device.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    # https://docs.nvidia.com/cuda/cublas/#results-reproducibility: one of two workspaces that make it so
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise EyasError(
            f"--run.deterministic true: {str(error).partition('. ')[0]}; leave the option out, or take --run.device cpu"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
