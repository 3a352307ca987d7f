"""The teacher of a run, from its score to the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from eyas.data import DataSource
from eyas.distillation.teachers import RunningTeacher, Teacher
from eyas.evaluation import EvaluationResult
from eyas.methods.method import LevelPair
from eyas.nn.compile import compile_levels
from eyas.nn.fold_batchnorm import fold_teacher
from eyas.types import Detector

Score = Callable[[Detector], EvaluationResult]


class TeacherSession(Protocol):
    """A teacher and what a run does with it before the first step. `eyas.cache.session.CacheSession` is another one."""

    @property
    def teacher(self) -> Teacher:
        """What the distiller asks."""
        ...

    def score(self, val: DataSource, metric: str, score: Score) -> EvaluationResult:
        """Its evaluation on the validation images, made by ``score`` or remembered."""
        ...

    def prepare(self, pairs: Sequence[LevelPair]) -> None:
        """Make it ready for the steps, once it has been scored."""
        ...


class RunningSession:
    """A teacher that runs in every step.

    Args:
        detector: the teacher.
        say: prints one line.
        compiled: compile it up to its levels.
    """

    def __init__(self, detector: Detector, say: Callable[[str], None], *, compiled: bool) -> None:
        self.teacher = RunningTeacher(detector)
        self._say, self._compiled = say, compiled

    def score(self, val: DataSource, metric: str, score: Score) -> EvaluationResult:
        """Made anew."""
        return score(self.teacher.detector)

    def prepare(self, pairs: Sequence[LevelPair]) -> None:
        """Fold its BatchNorms into its convolutions, and compile it where that is asked."""
        fold_teacher(self.teacher.detector, self._say)
        if self._compiled:
            compile_levels(self.teacher.detector)
