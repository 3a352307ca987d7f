"""The numbers of a run's log, sent to TensorBoard, Weights & Biases or MLflow by accelerate.

A number is named by its path in ``log.jsonl``: ``train/losses/fgfi``, ``train/lr``, ``val/summary/map``. Text and NaN
stay in the log alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from eyas.args import RunArgs, Tracker
from eyas.runs.config import recorded_options
from eyas.tools.files import refuse_links, write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError

TRACKER_IDS = "trackers.json"
"""File in the run folder: tracker -> its own id of the run, with which a resumed run goes on."""
EVENTS = "tensorboard"
"""Folder in the run folder: TensorBoard's event files."""
NOT_IN_A_NAME = re.compile(r"[^\w.\- /]")
"""Characters that MLflow refuses in a name; a class may be called anything."""


def chosen_trackers(run: RunArgs) -> list[Tracker]:
    """The trackers of ``--run.trackers``, each once.

    Raises:
        EyasError: the package of one is not installed; names the extra.
    """
    chosen: list[Tracker] = [run.trackers] if isinstance(run.trackers, str) else list(run.trackers or [])
    for name in chosen:
        if LoggerType(name) not in get_available_trackers():
            raise EyasError(
                f"--run.trackers {name} needs a package that is not installed: pip install 'eyas[{name}]', or leave it "
                "out; log.jsonl is written in any case"
            )
    return list(dict.fromkeys(chosen))


class Trackers:
    """Sends the lines of a log to the trackers of an accelerator, in the main process alone.

    Lines that come before `start` are kept until then. A tracker that fails later is dropped with a warning: a training
    does not depend on a server, and the log has every number.

    Args:
        accelerator: from `make_accelerator`, which knows the trackers of the run.
        folder: the run folder, which gives the run its name.
        project: name of W&B's project and MLflow's experiment.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, project: str) -> None:
        self._accelerator, self._folder, self._project = accelerator, folder, project
        self._active = bool(accelerator.log_with) and accelerator.is_main_process
        self._pending: list[dict[str, Any]] | None = []
        self._first_step = 0
        self._say: Callable[[str], None] = print

    def start(self, say: Callable[[str], None], *, resumed_at: int | None = None) -> None:
        """Start the trackers, or continue the runs they have of this folder, and send the lines kept so far.

        Args:
            say: prints one line.
            resumed_at: the step after which a resumed run goes on; None for a new run.

        Raises:
            EyasError: a tracker does not start.
        """
        if not self._active:
            return
        self._say, self._first_step = say, resumed_at or 0
        for place in (Path(EVENTS, self._project), Path("wandb")):
            refuse_links(self._folder / place, self._folder)
        path = self._folder / TRACKER_IDS
        known = read_json(path) if resumed_at is not None and path.exists() else {}
        try:
            self._accelerator.init_trackers(self._project, init_kwargs=self._settings(known, resumed_at))
            options = {  # in types that every tracker takes
                name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
                for name, value in recorded_options(self._folder).items()
            }
            for tracker in self._accelerator.trackers:
                if options and tracker.name not in known:  # it has those of the run's beginning
                    tracker.store_init_configuration(options)
        except Exception as error:  # each library raises its own
            names = ", ".join(map(str, self._accelerator.log_with))
            raise EyasError(f"--run.trackers: {names} did not start: {error}") from error
        runs = {tracker.name: _run_of(tracker) for tracker in self._accelerator.trackers}
        write_json(path, {**known, **runs})
        say(f"trackers  {'   '.join(runs)}")
        pending, self._pending = self._pending or [], None
        for line in pending:
            self(line)

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of one line."""
        if not self._active:
            return
        if self._pending is not None:
            self._pending.append(dict(line))
            return
        values, step = numbers(line), max(line.get("step", 0), self._first_step)
        for tracker in list(self._accelerator.trackers):
            try:
                tracker.log(values, step=step)
            except Exception as error:  # each library raises its own
                self._accelerator.trackers.remove(tracker)
                self._say(f"warning   {tracker.name} failed and gets no more numbers; log.jsonl has them all: {error}")

    def _settings(self, known: Mapping[str, str], resumed_at: int | None) -> dict[str, dict[str, Any]]:
        """The options that each tracker is started with, by its own names."""
        name = self._folder.resolve().name
        return {
            # TensorBoard then hides the steps that are done again.
            "tensorboard": {} if resumed_at is None else {"purge_step": resumed_at + 1},
            "wandb": {"name": name, "dir": str(self._folder), "id": known.get("wandb"), "resume": "allow"},
            "mlflow": {"run_name": name, "run_id": known.get("mlflow")},
        }


def _run_of(tracker: Any) -> str:
    """A tracker's own id of the run that it has started."""
    if tracker.name == "wandb":
        return str(tracker.tracker.id)
    if tracker.name == "mlflow":
        return str(tracker.tracker.info.run_id)
    return str(tracker.run_name)


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of the log by their path, ``kind/key/key``, without its step and time."""
    found = _numbers(str(line["kind"]), {key: line[key] for key in line if key not in ("kind", "step", "time")})
    return {NOT_IN_A_NAME.sub("_", name): value for name, value in found}


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(f"{name}/{key}", entry)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value
