"""What a part of the run is: cases, which give rows as they go, and the bench that they run on. No torch here."""

from __future__ import annotations

import gc
import importlib
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""JSON values by name. A row with ``within`` false is outside its tolerance."""


class Untried(Exception):
    """A case cannot be tried on this machine; the message says why."""


def imported(package: str) -> Any:
    """A package that a case needs and the machine may lack. Raises Untried where it cannot be imported."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Untried(f"the package {package} cannot be imported: {error}") from error


@dataclass(frozen=True)
class Bench:
    """Where the cases of a part run.

    Attributes:
        device: cuda or cpu.
        tiny: small inputs and few turns, to try the code without a card.
        folder: for files, removed after the run.
        deadline: by `time.monotonic`. No case begins after it, and the part is killed soon after.
    """

    device: str
    tiny: bool
    folder: Path
    deadline: float

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


class Case(NamedTuple):
    """A measurement with a name of its own within its part. ``run`` gives the rows one by one."""

    name: str
    run: Callable[[], Iterable[Row]]


def perform(cases: Iterable[Case], bench: Bench, emit: Callable[[Row], object]) -> None:
    """Run the cases in their order; one that fails does not stop the others.

    Args:
        cases: those of one part.
        bench: where they run.
        emit: gets what happens, as it happens: ``case`` alone when one begins, ``row`` for each row, ``seconds`` at its
            end, with ``error`` or ``untried`` where it has not finished, and ``left_out`` where there was no time.
    """
    for name, run in cases:
        if bench.left() <= 0:
            emit({"case": name, "left_out": "no time left"})
            continue
        emit({"case": name})
        began, ending, outside = time.monotonic(), {}, 0
        try:
            for row in run():
                emit({"case": name, "row": row})
                outside += row.get("within") is False
            if outside:
                ending = {"error": f"{outside} rows are outside their tolerance"}
        except Untried as reason:
            ending = {"untried": str(reason)}
        except Exception as error:  # whatever the code under test raises is recorded
            traceback.print_exc()
            ending = {"error": f"{type(error).__name__}: {error}"}
        emit({"case": name, "seconds": round(time.monotonic() - began, 2), **ending})
        gc.collect()  # detectors are in cycles, and hold the device's memory
