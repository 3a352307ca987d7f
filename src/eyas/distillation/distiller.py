"""The distiller: a student's own losses, and one term for each distillation method.

Its forward returns every loss of a batch by name, so a training loop only sums them. The teacher is held outside the
module tree: it is not trained, not saved, not wrapped by DDP, and ``train()`` does not reach it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from eyas.detectors import check_detector
from eyas.distillation.accumulation import step_shares
from eyas.distillation.balance import Balance, compared_levels, detection_gradient, measure_balance
from eyas.distillation.checks import (
    check_apart,
    check_imitated,
    check_methods,
    check_modes,
    check_names,
    check_student,
    is_training_pass,
)
from eyas.distillation.first_batches import CHECKED, check_batch
from eyas.distillation.outlines import Outlines
from eyas.distillation.pairing import Pairing, pair_levels
from eyas.distillation.teacher_scale import check_scale, resize_for_student, student_size
from eyas.distillation.teachers import RunningTeacher, Teacher, TeacherRequest
from eyas.distillation.terms import Term, with_terms
from eyas.distillation.views import as_batch, student_view
from eyas.methods.method import Method, Reads
from eyas.nn.eval_mode import own_random_numbers, restored_afterwards
from eyas.nn.taps import some_parameter
from eyas.types import Detector, Target, View, size_of


class Distiller(nn.Module):
    """Trains a student detector with its own losses and those of distillation methods.

    Args:
        student: the detector to train, a module.
        teacher: a trained detector, which is put in evaluation mode, frozen, and moved to the student's device; or
            another `eyas.distillation.teachers.Teacher`, such as a cache.
        methods: distillation losses. Their adapters are made here, so build the optimiser from
            ``distiller.parameters()`` afterwards. Without any, the student trains by its own losses.
        pairs: how levels are paired where the same stride is not what you want, see `Pairing`.
        teacher_scale: how many times larger the teacher sees the images, in [1, 4]. The images and targets of a batch
            are then the teacher's, and the student's are resized from them, see `eyas.distillation.teacher_scale`.
            Only methods that compare feature maps can do that.
        total_batches: how many batches the training has, for methods that stop before its end; it may be set later.
        seed: of the adapters' initial weights. They are drawn apart from the global random state, so that a baseline
            and a distilled student of one global seed have the same initial weights, dropout and data order.

    Attributes:
        pairs: the level pairs in use, fine to coarse.
        terms: one for each method, in their order.
        batches: how many it has trained on.

    Raises:
        EyasError: no levels can be paired, two methods have the same name, the student is no module, student and
            teacher share a parameter, or a method belongs to another distiller.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector | Teacher,
        *methods: Method,
        pairs: Pairing = None,
        teacher_scale: float = 1.0,
        total_batches: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_student(student)
        check_methods(methods)
        check_scale(teacher_scale, methods)
        if not isinstance(teacher, Teacher):
            check_detector(teacher, "the teacher")
        self.student, self.teacher_scale, self.total_batches = student, teacher_scale, total_batches
        self.terms = cast(Sequence[Term], nn.ModuleList(Term(method) for method in methods))
        # A tuple keeps the teacher out of the module tree.
        self._outside = (teacher if isinstance(teacher, Teacher) else RunningTeacher(teacher),)
        self.batches = 0
        self._shares: deque[Mapping[str, Tensor]] = deque()
        check_apart(cast(nn.Module, student), self.teacher.networks)
        for module in self.teacher.networks:
            module.eval().requires_grad_(False)
        device = some_parameter(student).device
        self.to(device)
        self.pairs = pair_levels(student, self.teacher, pairs, scale=teacher_scale)
        self._outlines = Outlines(student, [pair.student_tap for pair in self.pairs], "student")
        with own_random_numbers(seed):
            for method in methods:
                method.setup(self.pairs)
                method.is_set_up = True
        self.to(device)  # now the adapters too

    @property
    def teacher(self) -> Teacher:
        return self._outside[0]

    @property
    def methods(self) -> list[Method]:
        return [term.method for term in self.terms]

    def forward(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Every loss of a batch, scalars by name: the student's own, then one for each method, times its weight.

        Args:
            images: (batch, 3, height, width), float32 in [0, 1] or uint8, or a sequence of (3, height, width), padded
                here. As the teacher sees them.
            targets: one for each image, boxes in the frame of its tensor.

        Raises:
            EyasError: one of the first batches is not what losses and masks need, see `check_batch`.
        """
        check_modes(self, cast(nn.Module, self.student))
        images, targets = self._batch(images, targets)
        training_pass = is_training_pass(self)
        active = [term for term in self.terms if term.is_active(self.batches, self.total_batches)]
        student, teacher = self._views(images, targets, active)
        losses = dict(student.losses)
        shares = self._shares.popleft() if training_pass and self._shares else {}
        measured = cache(partial(detection_gradient, student))  # once for all terms, and not where none measures
        for term in self.terms:
            if teacher is None or term not in active:
                losses[term.name] = term.zero(images)
            else:
                loss = term(student, teacher, targets, self.batches, self.total_batches, measured)
                losses[term.name] = loss * shares.get(term.name, 1.0)
        if training_pass:
            self.batches += 1
        return losses

    def balance(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Balance:
        """How the imitation terms compare with the detection loss on one batch, at the student's imitated features.

        It leaves nothing behind: no gradient, no BatchNorm statistics, no random number drawn, no batch counted.
        Adapters that have just been initialised near zero pass almost no gradient: the ratio is worth reading after
        some steps too. Under several processes all must call it, because N_p is that of all.
        """
        images, targets = self._batch(images, targets)
        with torch.enable_grad(), restored_afterwards(self, images.device):
            student, teacher = self._views(images, targets, self.terms)
            return measure_balance(self.methods, student, teacher, targets)

    def try_out(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> None:
        """Run all that a step runs on one batch, and leave nothing behind, as `balance`: it raises what a step would.

        A cached teacher is left out: it can answer only once its cache is filled.
        """
        if self.teacher.networks:
            self.balance(images, targets)
            return
        images, targets = self._batch(images, targets)
        reads = frozenset(read for method in self.methods for read in method.reads)
        with torch.enable_grad(), restored_afterwards(self, images.device):
            self._student_view(images, targets, reads)

    def plan_step(self, batches: Sequence[tuple[Tensor | Sequence[Tensor], Sequence[Target]]]) -> None:
        """Announce the batches whose gradients the next optimiser step accumulates, before the first of them.

        Methods that know beforehand what they average over, cells or images, then average over those of the whole step,
        as if its batches were one; see `eyas.distillation.accumulation`. Otherwise each batch has its own average. Then
        call the distiller once for each batch, in their order, and divide each loss by their number. Under several
        processes all must call this.
        """
        self._shares.clear()
        counts = [self._counts(images, targets) for images, targets in batches]
        names = list(counts[0]) if counts else []
        if names:
            device = some_parameter(self.student).device
            rows = torch.tensor([[count[name] for name in names] for count in counts], device=device)
            self._shares.extend(dict(zip(names, row, strict=True)) for row in step_shares(rows))

    def weights(self) -> dict[str, float]:
        """Method name -> its weight in the next batch; an automatic one is 0 until it has been measured."""
        return {term.name: float(term.weight()) for term in self.terms}

    def gradient_ratios(self) -> dict[str, float]:
        """Method name -> its weighted gradient over the detection gradient, at the imitated features.

        A running mean over the batches that are measured; a method that has not been measured is left out.
        """
        return {term.name: float(term.monitor.ratio()) for term in self.terms if term.monitor.measurements}

    def last_gradient_ratios(self) -> dict[str, float]:
        """As `gradient_ratios`, of the last batch that was measured alone."""
        return {term.name: float(term.monitor.last()) for term in self.terms if term.monitor.measurements}

    def take_parts(self) -> dict[str, dict[str, Tensor]]:
        """Method name -> its loss by level or head, summed over the batches since this was last called.

        The parts are scalars without the weight, by their absolute value; see `eyas.distillation.shares`.
        """
        return {term.name: term.parts.take() for term in self.terms}

    def _batch(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Sequence[Target]]:
        """A batch as the detectors take it; the first ones are checked, which waits for the device."""
        self._check(images, targets)
        return as_batch(images, targets)

    def _check(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> None:
        if self.batches < CHECKED:
            check_batch(images, targets, self.student.classes)

    def _counts(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> dict[str, int]:
        """Method name -> what its loss of a batch is averaged over, where that is known without running a network."""
        self._check(images, targets)
        if not isinstance(images, Tensor):  # of a tensor only the shape is read: uint8 need not become floats
            images, targets = as_batch(images, targets)
        request = TeacherRequest(images, targets, [pair.teacher_tap for pair in self.pairs], frozenset())
        student = self._outlines(student_size(size_of(images), self.teacher_scale), len(images))
        teacher = self.teacher.outline(request)
        counts = {method.name: method.count(student, teacher, targets) for method in self.methods}
        return {name: count for name, count in counts.items() if count is not None}

    def _views(self, images: Tensor, targets: Sequence[Target], terms: Sequence[Term]) -> tuple[View, View | None]:
        """The student's and the teacher's view of a batch; without terms there is no teacher's.

        The teacher goes first, unless it scores the student's boxes: its memory is then free again before the
        student's maps come, all of which stay for the backward pass.
        """
        reads = frozenset(read for term in terms for read in term.method.reads)
        request = TeacherRequest(images, targets, [pair.teacher_tap for pair in self.pairs], reads)
        teacher = self.teacher.view(request) if terms and "heads" not in reads else None
        student = self._student_view(images, targets, reads)
        if "heads" in reads:
            named = [term.method.heads for term in terms if "heads" in term.method.reads]
            boxes = {
                name: head.boxes
                for name, head in student.heads.items()
                if any(heads is None or name in heads for heads in named)
            }
            teacher = self.teacher.view(replace(request, boxes=boxes))
        counted = None if teacher is None else replace(teacher, batch=self.batches)
        return replace(student, batch=self.batches), counted

    def _student_view(self, images: Tensor, targets: Sequence[Target], reads: frozenset[Reads]) -> View:
        """The student's view of a batch, whose images are the teacher's; what some method compares can learn."""
        student = student_view(
            self.student, *resize_for_student(images, targets, self.teacher_scale), self.pairs, reads
        )
        compared = {index for method in self.methods for index in compared_levels(method, student)}
        check_imitated(student, self.pairs, compared)
        check_names(student.losses, self.methods)
        return student

    def get_extra_state(self) -> dict[str, Any]:
        parts = {term.name: state for term in self.terms if (state := term.parts.state())}
        names = [term.name for term in self.terms]
        return {"batches": self.batches, "methods": names, **({"parts": parts} if parts else {})}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if type(state["batches"]) is not int or state["batches"] < 0:
            raise ValueError(f"it has trained on {state['batches']!r:.60} batches")
        names = [term.name for term in self.terms]
        if state.get("methods", names) != names:
            raise ValueError(f"its methods are {state['methods']!r:.200}, in this order, and not {names}")
        self.batches, parts = state["batches"], state.get("parts", {})
        if not isinstance(parts, dict):
            raise ValueError(f"the parts of its losses are {parts!r:.60}")
        for term in self.terms:
            term.parts.restore(parts.get(term.name, {}))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`; also takes the names of states from before there were terms."""
        return super().load_state_dict(with_terms(state_dict, self.terms), *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        # .to(), .cuda() and the like: the teacher, outside the module tree, follows.
        for module in self.teacher.networks:
            module._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
