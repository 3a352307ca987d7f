"""Options outside their ranges are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest

from eyas.args import BatchArgs, DataArgs, OptimArgs, RunArgs
from eyas.types import EyasError

ODD = (-1.0, math.nan, math.inf, 1e18)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: DataArgs(batch_size=0), "batch_size"),
        (lambda: DataArgs(workers=-1), "workers"),
        (lambda: OptimArgs(lr=-0.1), "lr"),
        (lambda: OptimArgs(momentum=-0.1), "momentum"),
        (lambda: OptimArgs(weight_decay=-1.0), "weight_decay"),
        (lambda: OptimArgs(clip_norm=-1.0), "clip_norm"),
        (lambda: OptimArgs(accumulate=0), "accumulate"),
        (lambda: OptimArgs(ema=1.0), "ema"),
        (lambda: OptimArgs(warmup=1.0), "warmup"),
        (lambda: OptimArgs(milestones=(0.5, 1.0)), "milestones"),
        (lambda: OptimArgs(lr=float("nan")), "lr"),
        (lambda: RunArgs(epochs=0), "epochs"),
        (lambda: RunArgs(log_every=0), "log_every"),
        (lambda: RunArgs(seed=-1), "seed"),
        (lambda: RunArgs(evaluate_every=-1), "evaluate_every"),
        (lambda: RunArgs(seed=2**32), "seed"),
        (lambda: RunArgs(threads=10**9), "threads"),
        (lambda: DataArgs(workers=10**6), "workers"),
        (lambda: BatchArgs(workers=10**6), "workers"),
        *((partial(DataArgs, worker_timeout=value), "worker_timeout") for value in ODD),
        *((partial(OptimArgs, lr=value), "lr") for value in ODD[:3]),
        (lambda: OptimArgs(gamma=-0.1), "gamma"),
    ],
)
def test_an_option_outside_its_range(make: Callable[[], object], option: str) -> None:
    with pytest.raises(EyasError, match=option):
        make()


def test_the_limits_themselves_are_allowed() -> None:
    DataArgs(batch_size=1, workers=0)
    OptimArgs(lr=0.0, momentum=0.0, weight_decay=0.0, clip_norm=0.0, warmup=0.0, ema=0.0, milestones=())
    RunArgs(epochs=1, seed=0, threads=0, evaluate_every=0, log_every=1)
    RunArgs(seed=2**32 - 1)
    DataArgs(worker_timeout=0.0, workers=256)
