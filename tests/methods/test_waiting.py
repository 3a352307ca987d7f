"""The host never waits for the device in a distilled step: it reads no value that the device computes.

Tensors on the meta device have no values, so reading one, or a size that depends on one, raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eyas.data import Resize, eval_transform, loader, read
from eyas.data.transforms import WithHostBoxes
from eyas.distillation.distiller import Distiller
from eyas.methods import CWD, FGD, FGFI, FRS, MGD, PKD, Auto, BoxMask, Cosine, DeFeat, FitNets, Method, SelfSimilarity
from eyas.types import Target
from helpers.tiny import write_squares
from helpers.toys import ScoringToy, ToyDetector, toy_batch

METHODS = {
    "fgfi": lambda: FGFI(weight=Auto(warmup=1, every=1)),
    "fgfi by size": lambda: FGFI(weight=0.1, assignment="by_size"),
    "fgfi dense": lambda: FGFI(weight=0.1, sparse_below=0.0),
    "box mask": lambda: BoxMask(weight=Auto(warmup=0, every=1)),
    "fitnets": lambda: FitNets(weight=1.0),
    "pkd": lambda: PKD(weight=1.0),
    "cwd": lambda: CWD(weight=1.0),
    "fgd": lambda: FGD(weight=1.0),
    "defeat": lambda: DeFeat(weight=1.0),
    "frs": lambda: FRS(weight=1.0),
    "mgd": lambda: MGD(weight=Auto(warmup=1, every=1)),
    "cosine": lambda: Cosine(weight=1.0),
    "self_similarity": lambda: SelfSimilarity(weight=1.0, max_cells=9),
}
WITHOUT_BOXES = ("fitnets", "pkd", "cwd", "frs", "mgd", "cosine", "self_similarity")


class Student(ToyDetector):
    """A student whose own loss reads no value from the device."""

    def head_losses(self, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        return {f"loss_{name}": self.heads[name](feature).square().mean() for name, feature in features.items()}


def batch(device: str) -> tuple[Tensor, list[Target]]:
    """Images and boxes on a device, and copies of the boxes on the host."""
    images, targets = toy_batch()
    keep = WithHostBoxes(lambda image, target: (image, target))
    kept = [keep(image, target)[1] for image, target in zip(images, targets, strict=True)]
    return images.to(device), [
        {**target, "boxes": target["boxes"].to(device), "labels": target["labels"].to(device)} for target in kept
    ]


def step(distiller: Distiller, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    losses = distiller(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def distiller_of(method: Method) -> Distiller:
    torch.manual_seed(0)
    return Distiller(Student(), ScoringToy(6), method)


@pytest.mark.parametrize("name", METHODS)
def test_a_distilled_step_reads_no_value_from_the_device(name: str) -> None:
    method = METHODS[name]()
    distiller = distiller_of(method)
    for _ in range(12):  # the first batches are checked, and an automatic weight finds out which of them count
        step(distiller, *batch("cpu"))
    distiller.to("meta")
    images, targets = batch("meta")
    for _ in range(3):
        assert step(distiller, images, targets)[method.name].is_meta
    if name not in WITHOUT_BOXES:
        for target in targets:
            del target["host_boxes"]
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            step(distiller, images, targets)


@pytest.mark.parametrize("name", METHODS)
def test_a_distiller_can_begin_on_the_meta_device(name: str) -> None:
    """Where nothing has a value there is nothing to check, and every batch counts."""
    method = METHODS[name]()
    distiller = distiller_of(method).to("meta")
    for _ in range(3):
        assert step(distiller, *batch("meta"))[method.name].is_meta


@pytest.mark.parametrize("name", METHODS)
def test_host_boxes_give_the_same_loss_as_device_boxes(name: str) -> None:
    methods = [METHODS[name]() for _ in range(2)]
    images, targets = batch("cpu")
    without: list[Target] = [{"boxes": target["boxes"], "labels": target["labels"]} for target in targets]
    pairs = zip(methods, (targets, without), strict=True)
    one, other = (distiller_of(method)(images, given)[method.name] for method, given in pairs)
    assert torch.equal(one, other)


def test_host_boxes_are_in_the_frame_of_the_network_input() -> None:
    target: Target = {"boxes": torch.tensor([[2.0, 4, 10, 12]]), "labels": torch.tensor([0])}
    keep = WithHostBoxes(eval_transform(Resize(height=10, width=40)))
    _, kept = keep(torch.zeros(3, 20, 20, dtype=torch.uint8), target)
    assert kept["host_boxes"].tolist() == kept["boxes"].tolist() == [[4, 2, 20, 6]]


def test_host_boxes_survive_a_loader_worker(tmp_path: Path) -> None:
    source = read(write_squares(tmp_path), "train")
    batches = loader(source, WithHostBoxes(eval_transform(Resize())), batch_size=2, shuffle=True, workers=2, seed=0)
    for _, targets in batches:
        for target in targets:
            assert target["host_boxes"].tolist() == target["boxes"].tolist()


@pytest.fixture
def synchronisation_raises() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METHODS)
def test_a_distilled_step_never_synchronises_with_the_gpu(name: str, request: pytest.FixtureRequest) -> None:
    distiller = distiller_of(METHODS[name]()).cuda()
    images, targets = batch("cuda")
    step(distiller, images, targets)  # the first step creates handles and selects algorithms
    torch.cuda.synchronize()
    request.getfixturevalue("synchronisation_raises")
    for _ in range(3):
        step(distiller, images, targets)
