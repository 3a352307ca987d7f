"""The machine: the card, its memory, the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from benchmarks.gpu.cases import Bench, Case, Row

PACKAGES = ("eyas", "torch", "torchvision", "triton", "accelerate", "numpy", "tensorrt")


def cases(bench: Bench) -> list[Case]:
    return [Case("machine", lambda: [machine(bench.device)])]


def machine(device: str) -> Row:
    """Card and versions. Raises RuntimeError where the device is a card and torch sees none."""
    known = {
        "card": device,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        **dict(versions()),
    }
    if device != "cuda":
        return known
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        raise RuntimeError(f"torch {torch.__version__}, {built}, sees no CUDA card; --tiny runs on the CPU")
    properties = torch.cuda.get_device_properties(0)
    return {
        **known,
        "card": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of the packages that are installed."""
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
