"""Three processes, and eight, do the work of one: gradients, the filling of a cache, and an evaluation.

The processes are started once; the tests read what they wrote. Every process has one image of a step, and most have no
object in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import eyas.evaluation.predict
from eyas.args import DataArgs, OptimArgs, RunArgs
from eyas.cache.identity import TeacherOnDemand
from eyas.cache.session import CacheSession
from eyas.cache.shards import KEY_BYTES, Shards
from eyas.data import read
from eyas.distillation.distiller import Distiller
from eyas.evaluation.predict import score_detector, val_loader
from eyas.methods import FGFI, Auto, BoxMask, FitNets
from eyas.runs.opening import DetectorSource
from eyas.tools.progress import Progress
from eyas.training.accelerator import make_accelerator
from eyas.types import EyasError, Prediction, Target
from helpers.gloo import run_processes
from helpers.tiny import poor_teacher, write_squares
from helpers.toys import ToyDetector, relative, seeded, toy_target

SIZE = (64, 96)
STEPS = {"one batch": ((3, 0, 1, 0, 2, 0, 0, 1),), "two batches": ((3, 0, 1, 0, 2, 0, 0, 1), (0, 2, 0, 1, 0, 0, 3, 0))}
"""Objects in the image of each process, for each batch whose gradients a step accumulates."""
BOXES = ((8.0, 8.0, 30.0, 30.0), (50.0, 20.0, 95.0, 60.0), (0.0, 40.0, 20.0, 64.0))
METHODS = {
    "dense": lambda: FGFI(1.0, init_std=0.1, sparse_below=0.0),
    "sparse": lambda: FGFI(1.0, init_std=0.1, sparse_below=1.1),
    "automatic": lambda: FGFI(Auto(warmup=0), init_std=0.1),
    "fitnets": lambda: FitNets(1.0, init_std=0.1),
    "box_mask": lambda: BoxMask(1.0, init_std=0.1),
}
TRAIN, VAL = 20, 13
DATA = DataArgs(batch_size=2, workers=0)


# Gradients -----------------------------------------------------------------------------------------------------------


def batches(step: str, number: int, part: slice) -> list[tuple[Tensor, list[Target]]]:
    """The images and targets of these processes, out of ``number``, in each batch of a step."""
    generator = torch.Generator().manual_seed(9)
    made = []
    for counts in STEPS[step]:
        images = torch.rand(8, 3, *SIZE, generator=generator)[:number][part]
        made.append((images, [toy_target(*BOXES[:count]) for count in counts[:number][part]]))
    return made


def gradients(step: str, method: str, number: int, part: slice, *, parallel: bool) -> dict[str, Tensor]:
    """The gradients of one optimiser step, over all its batches."""
    model = Distiller(seeded(0), seeded(1, 6, norm=True), METHODS[method]())
    module: nn.Module = DistributedDataParallel(model) if parallel else model
    own = batches(step, number, part)
    if len(own) > 1:
        model.plan_step(own)
    for index, (images, targets) in enumerate(own):
        last = index == len(own) - 1
        with nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync():
            (torch.stack(list(module(images, targets).values())).sum() / len(own)).backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


# The cache -----------------------------------------------------------------------------------------------------------


def fill(data: Path, cache: Path, accelerator: Accelerator) -> None:
    teacher = TeacherOnDemand(DetectorSource("teacher", "code", poor_teacher), torch.device("cpu"), torch.channels_last)
    method = FGFI(1.0, init_std=0.1)
    with Progress(quiet=True) as progress:
        session = CacheSession(
            cache, "float32", teacher, [method], train=read(data, "train"), data=DATA, accelerator=accelerator,
            progress=progress,
        )  # fmt: skip
        session.prepare(Distiller(poor_teacher(), session.teacher, method).pairs)


def records(cache: Path) -> dict[bytes, bytes]:
    (folder,) = cache.glob("fgfi-*")
    shards = Shards(folder)
    return {key: bytes(shards[key]) for key in shards}


# An evaluation -------------------------------------------------------------------------------------------------------


class FindsColours(ToyDetector):
    """The extent of what is red, and of what is blue."""

    def predict(self, images: Tensor) -> list[Prediction]:
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> Prediction:
        boxes, scores, labels = [], [], []
        for label, channel in enumerate((0, 2)):
            rows, columns = (image[channel] > 0.7).nonzero(as_tuple=True)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                scores.append(len(rows) / image[0].numel())
                labels.append(label)
        return Prediction(
            boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.int64),
        )


class Diverged(FindsColours):
    def predict(self, images: Tensor) -> list[Prediction]:
        return [{**found, "scores": found["scores"] * torch.nan} for found in super().predict(images)]


def evaluated(detector: ToyDetector, data: Path, accelerator: Accelerator) -> dict[str, Any]:
    """Summary and classes' metrics, or the error, and how often this process has scored."""
    source, scored = read(data, "val"), []
    score = eyas.evaluation.predict.score
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(eyas.evaluation.predict, "score", lambda *a: (scored.append(None), score(*a))[1])
        loader = accelerator.prepare(val_loader(source, DATA))
        try:
            result = score_detector(detector, loader, source, "coco", Progress(quiet=True), "evaluate")
        except EyasError as error:
            return {"error": str(error), "scored": len(scored)}
    return {"summary": result.summary, "per_class": dict(result.per_class), "scored": len(scored)}


# All of it -----------------------------------------------------------------------------------------------------------


def accelerator() -> Accelerator:
    return make_accelerator(RunArgs(device="cpu", precision="no"), OptimArgs())


def work(rank: int, *, number: int, data: Path, cache: Path) -> dict[str, Any]:
    part, own = slice(rank, rank + 1), accelerator()
    assert (own.num_processes, own.process_index) == (number, rank)
    fill(data, cache, own)
    return {
        "gradients": {
            (step, method): gradients(step, method, number, part, parallel=True) for step in STEPS for method in METHODS
        },
        "evaluated": evaluated(FindsColours(), data, own),
        "diverged": evaluated(Diverged(), data, own),
    }


class Made:
    """What all processes did, and the data they did it with."""

    def __init__(self, root: Path, number: int) -> None:
        self.root, self.number, self.data, self.cache = root, number, root / "data", root / "cache"
        write_squares(self.data, train=TRAIN, val=VAL)
        (root / "ranks").mkdir()
        doing = partial(work, number=number, data=self.data, cache=self.cache)
        self.ranks = run_processes(doing, root / "ranks", number)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[3, 8])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    yield Made(tmp_path_factory.mktemp("many"), request.param)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", STEPS)
def test_gradients_are_those_of_one_process(made: Made, step: str, method: str) -> None:
    alone = gradients(step, method, made.number, slice(None), parallel=False)
    assert any("adapters" in name and bool(value.any()) for name, value in alone.items())
    for rank in made.ranks:
        found = rank["gradients"][step, method]
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            assert relative(found[name], expected) < 2e-5, name


def test_the_cache_is_that_of_one_process(made: Made) -> None:
    fill(made.data, made.root / "alone", accelerator())
    together, alone = records(made.cache), records(made.root / "alone")
    assert together.keys() == alone.keys() and len(alone) == 2 * TRAIN
    for key, record in alone.items():
        head = KEY_BYTES + 12
        cells = int.from_bytes(record[head - 4 : head], "little")
        start = head + 4 * cells
        assert together[key][:start] == record[:start] and cells > 0
        vectors = (torch.frombuffer(bytearray(one[start:]), dtype=torch.float32) for one in (together[key], record))
        torch.testing.assert_close(*vectors, rtol=1e-4, atol=1e-5)  # the last bits depend on the size of a batch


def test_every_process_writes_its_share_of_the_cache(made: Made) -> None:
    """A share is every image whose number leaves the rank, and no record is written twice."""
    by_rank: dict[int, list[str]] = {}
    for path in made.cache.glob("fgfi-*/shard-*.index"):
        by_rank.setdefault(int(path.stem.split("-")[-1]), []).extend(path.read_text().splitlines()[1:])
    shares = [len(range(rank, TRAIN, made.number)) for rank in range(made.number)]
    assert [len(by_rank[rank]) for rank in range(made.number)] == [2 * share for share in shares]


def test_an_evaluation_is_that_of_one_process(made: Made) -> None:
    alone = evaluated(FindsColours(), made.data, accelerator())
    assert 0.2 < alone["summary"]["map"] < 1
    for rank in made.ranks:
        assert repr({**rank["evaluated"], "scored": 1}) == repr(alone)  # repr: NaN equals itself


def test_the_first_process_alone_scores(made: Made) -> None:
    assert [rank["evaluated"]["scored"] for rank in made.ranks] == [1] + [0] * (made.number - 1)


def test_every_process_raises_what_scoring_refuses(made: Made) -> None:
    """Those that wait for the result would wait for ever."""
    for rank in made.ranks:
        assert "a detection's box or score is not finite" in rank["diverged"]["error"]
