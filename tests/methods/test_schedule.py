"""The factor of a method's loss over the batches of a training."""

from __future__ import annotations

import pytest

from eyas.distillation.distiller import Distiller
from eyas.methods import FGFI, Schedule
from eyas.types import EyasError
from helpers.toys import seeded, toy_batch


def test_a_start_a_ramp_and_an_early_stop() -> None:
    schedule = Schedule(start_step=2, ramp_steps=3, stop=0.8)
    factors = [schedule.factor(batch, 10) for batch in range(10)]
    assert factors == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 0, 0])
    assert [Schedule().factor(batch, None) for batch in (0, 10**9)] == [1, 1]


def test_a_fall_along_half_a_cosine_to_the_end() -> None:
    falling = [Schedule(end=0.1).factor(batch, 4) for batch in range(5)]
    assert falling == pytest.approx([1, 1 - 0.9 * (1 - 0.5**0.5) / 2, 0.55, 1 - 0.9 * (1 + 0.5**0.5) / 2, 0.1])
    both = Schedule(ramp_steps=1, stop=0.5, end=0.0)
    assert [both.factor(batch, 4) for batch in range(4)] == pytest.approx([0.5, (2 + 2**0.5) / 4, 0, 0])


def test_values_out_of_range_are_refused() -> None:
    for values in ({"start_step": -1}, {"ramp_steps": -1}, {"stop": 0.0}, {"stop": 1.1}, {"end": -0.1}, {"end": 1.1}):
        with pytest.raises(EyasError, match=next(iter(values))):
            Schedule(**values)  # type: ignore[arg-type]


def test_the_distiller_multiplies_by_the_factor_and_rests_the_teacher_after_the_stop() -> None:
    def losses(schedule: Schedule, batches: int | None) -> list[float]:
        method = FGFI(1.0, init_std=0.1, schedule=schedule)
        distiller = Distiller(seeded(0), seeded(1, 6), method, total_batches=batches)
        return [float(distiller(*toy_batch())["fgfi"].detach()) for _ in range(4)]

    always, scheduled = losses(Schedule(), None), losses(Schedule(ramp_steps=1, stop=0.75), 4)
    assert scheduled == pytest.approx([always[0] / 2, always[1], always[2], 0])
    for unknown in (Schedule(stop=0.5), Schedule(end=0.5)):
        with pytest.raises(EyasError, match="total_batches"):
            losses(unknown, None)


def test_a_length_that_is_not_known_is_asked_for_in_the_first_batch() -> None:
    with pytest.raises(EyasError, match="stop needs the length of the training"):
        Schedule(start_step=400, stop=0.9).factor(0, None)
