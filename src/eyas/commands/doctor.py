"""`eyas doctor`: what is installed, on which devices it runs, and whether a training would work here."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, NamedTuple

from eyas.args import DataArgs, Device
from eyas.tools.tables import as_text
from eyas.types import Size, Target

if TYPE_CHECKING:
    import torch
    from packaging.requirements import Requirement

EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "timm": ("backbones by timm's names", ("timm",)),
    "transformers": ("detectors of Hugging Face", ("transformers",)),
    "libreyolo": ("YOLOv9 and YOLOX", ("libreyolo",)),
    "onnx": ("eyas export, and running its files", ("onnx", "onnxruntime", "onnxscript")),
    "openvino": ("eyas export --runtime openvino, and running its files", ("openvino",)),
    "nncf": ("--int8 for OpenVINO", ("nncf",)),
    "tensorboard": ("--run.trackers tensorboard", ("tensorboard",)),
    "wandb": ("--run.trackers wandb", ("wandb",)),
    "mlflow": ("--run.trackers mlflow", ("mlflow-skinny", "alembic", "SQLAlchemy")),
    "supervision": ("supervision's data sets and Detections", ("supervision",)),
    "datasets": ("data sets of Hugging Face: hf:ORG/NAME, Parquet", ("datasets",)),
    "demo": ("the pixels and the detectors of eyas demo", ("mlxtend", "scikit-image", "timm")),
}
"""Extra -> what it is for, and the packages it installs."""
SHM = Path("/dev/shm")  # nosec B108
PREFETCHED = 2
"""Batches that torch's DataLoader keeps for each worker."""
ASSUMED: Size = (800, 1333)
"""Size of an image where the options leave it open."""


class Check(NamedTuple):
    """One thing a training needs: what was checked, and the problem with its remedy, or None."""

    name: str
    problem: str | None = None


def doctor(
    dataset: DataArgs = DataArgs(),
    device: Device = "auto",
) -> int:
    """Show what is installed, which devices there are, and whether a training would work here.

    Args:
        dataset: how the data would be fed; its workers, batch size and image size decide the shared memory needed.
        device: auto also tries every accelerator; cpu does not.

    Returns:
        The exit status: 0 where a training would work, 1 where not.
    """
    print(f"eyas {metadata.version('eyas')}   python {platform.python_version()}   {platform.system()}\n")
    print(_table([(needed.name, _version(needed.name) or "missing") for needed in _requirements()]))
    print(f"\nextras\n{_table(list(extras()))}")
    names = devices(device)
    print(f"\ndevices\n{_table([(str(name), describe(name)) for name in names])}\n\nchecks")
    checks = [*packages(), shared_memory(dataset), *(step(name) for name in names)]
    for check in checks:
        print(f"  {'ok   ' if check.problem is None else 'wrong'}  {check.name}")
    problems = [check.problem for check in checks if check.problem is not None]
    for problem in problems:
        print(f"\n{problem}")
    print(f"\nA training would {'not ' if problems else ''}work here.")
    return 1 if problems else 0


def packages() -> Iterator[Check]:
    """Whether Eyas's requirements, and torchvision's requirement of torch, are met by what is installed."""
    from packaging.requirements import Requirement

    of_torchvision = [Requirement(text) for text in metadata.requires("torchvision") or () if "torch" in text]
    for needs, requirements in (("eyas", _requirements()), ("torchvision", of_torchvision)):
        for requirement in requirements:
            name, version = requirement.name, _version(requirement.name)
            wanted, problem = f"{name}{requirement.specifier}", None
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                found = "is missing" if version is None else f"{version} is installed"
                problem = f"{name} {found}: pip install '{wanted}'"
            yield Check(f"{wanted} for {needs}", problem)


def extras() -> Iterator[tuple[str, str, str, str]]:
    """Each extra: its name, its version or "missing", its purpose, and how to install it if it is missing."""
    for extra, (purpose, names) in EXTRAS.items():
        first, *others = (_version(name) for name in names)
        if first is None or None in others:
            yield extra, "missing", purpose, f"pip install 'eyas[{extra}]'"
        else:
            yield extra, first, purpose, ""


def devices(device: Device) -> list[torch.device]:
    """The CPU and, unless ``device`` is cpu, every accelerator that torch sees."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = 0 if kind is None or device == "cpu" else torch.accelerator.device_count()
    return [torch.device("cpu"), *(torch.device(str(kind), index) for index in range(count))]


def describe(device: torch.device) -> str:
    """A device in words: name and memory, or threads."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {_gib(properties.total_memory)}"
    if device.type != "cpu":
        return device.type
    text = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    if SHM.is_dir():
        text += f", {_gib(shutil.disk_usage(SHM).free)} free in {SHM}"
    if not torch.accelerator.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        text += f"; no accelerator (torch is built for {built})"
    return text


def shared_memory(data: DataArgs, free: int | None = None) -> Check:
    """Whether the workers' batches fit into ``free`` bytes of shared memory, by default this machine's."""
    height, width = data.resize.output_size(ASSUMED)
    need = data.workers * PREFETCHED * data.batch_size * 3 * height * width  # bytes: workers hand over uint8
    name = f"shared memory for {data.workers} workers, batches of {data.batch_size} at {height}x{width}: {_gib(need)}"
    if free is None:  # only Linux limits it
        free = shutil.disk_usage(SHM).free if SHM.is_dir() else need
    problem = (
        f"{SHM} has {_gib(free)} free, the workers need {_gib(need)}: enlarge it (docker run "
        f"--shm-size={math.ceil(need / 2**30)}g), or give --dataset.workers 0, or smaller batches or images"
    )
    return Check(name, problem if need > free else None)


def step(device: torch.device) -> Check:
    """Whether one step of a small detector, and NMS, run on a device."""
    import torch
    from torchvision.ops import nms

    from eyas.detectors import build

    name = f"a training step on {device}"
    try:
        detector = build("shuffledet", ("thing",), options={"width": 0.25})
        detector.network.to(device).train()
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]], device=device)
        targets: list[Target] = [{"boxes": boxes, "labels": torch.zeros(1, dtype=torch.int64, device=device)}] * 2
        losses = detector.losses(torch.rand(2, 3, 64, 64, device=device), targets)
        torch.stack(list(losses.values())).sum().backward()
        nms(boxes, torch.ones(1, device=device), 0.5)
    except (RuntimeError, NotImplementedError) as error:  # torch's own, of every kind of device
        text = str(error).partition("\n")[0]
        advice = "install the torch and torchvision that are made for it, or train with --run.device cpu"
        return Check(name, f"{device} does not train: {text}; {advice}")
    return Check(name)


def _requirements() -> list[Requirement]:
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in metadata.requires("eyas") or ()]
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return indent(as_text(rows, numbers=False), "  ")
