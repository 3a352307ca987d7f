"""Batches, and what the methods see of the student for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

from torch import Tensor

from eyas.distillation.checks import check_losses
from eyas.methods.method import LevelPair, Reads
from eyas.nn.failures import running
from eyas.nn.taps import Taps
from eyas.ops.pixels import as_float, padded_batch
from eyas.tools.timing import span
from eyas.types import (
    BranchesAt,
    BranchMaps,
    Detector,
    DetectorWithBranches,
    DetectorWithHeads,
    DetectorWithQueries,
    EyasError,
    HeadOutputs,
    QueryDecoder,
    Target,
    View,
    size_of,
)

MULTIPLE = 32
"""Pixels: a list of images is padded to sides that are multiples of it, as most backbones take."""


@span("student")
def student_view(
    student: Detector, images: Tensor, targets: Sequence[Target], pairs: Sequence[LevelPair], reads: frozenset[Reads]
) -> View:
    """Run the student, in training mode: its losses, its maps at the paired taps, and the heads that the methods read.

    The images (batch, 3, height, width), in [0, 1], are as the student sees them. It gets targets of its own, which it
    may change.

    Raises:
        EyasError: a method reads heads, queries or proposals, and the student gives none; or its losses are not named
            scalars.
    """
    own: list[Target] = [{**target} for target in targets]
    taps = Taps(student.network, [pair.student_tap for pair in pairs])
    decoder, branches = decoding(student, "student", reads), recorded_branches(student, "student", reads)
    with running("the student", images), taps, decoder as queries, branches as recorded:
        if reads & {"heads", "student_proposals"}:
            losses, outputs = with_heads(student, "student").losses_and_heads(images, own)
        else:
            losses, outputs = student.losses(images, own), HeadOutputs()
    check_losses(losses)
    features = [taps.features[pair.student_tap] for pair in pairs]
    levels = [pair.student for pair in pairs]
    return View(
        features, levels, size_of(images), outputs.heads, outputs.proposals, dict(losses), queries, branches=recorded
    )


def decoding(detector: Detector, role: str, reads: frozenset[Reads]) -> AbstractContextManager[QueryDecoder | None]:
    """The context of a pass that keeps the detector's decoder, where a method reads queries.

    Raises:
        EyasError: the detector has no queries.
    """
    if reads.isdisjoint({"queries", f"{role}_queries"}):
        return nullcontext()
    if not isinstance(detector, DetectorWithQueries):
        raise EyasError(
            f"the {role}, a {type(detector).__name__}, has no queries, which a method compares; choose a detector of "
            "transformers, such as RT-DETR or DAB-DETR, or methods that compare features"
        )
    return detector.decoding()


@contextmanager
def recorded_branches(
    detector: Detector, role: str, reads: frozenset[Reads]
) -> Iterator[dict[BranchesAt, dict[str, BranchMaps]]]:
    """The maps of the pass inside the context at each position that a method reads, for `View.branches`.

    Raises:
        EyasError: a method reads them, and the detector has no branch, or no such position.
    """
    found: dict[BranchesAt, dict[str, BranchMaps]] = {}
    with ExitStack() as stack:
        for at in (read for read in reads if isinstance(read, BranchesAt)):
            branches = detector.branches if isinstance(detector, DetectorWithBranches) else {}
            if not branches:
                raise EyasError(
                    f"the {role}, a {type(detector.network).__name__}, has no head that can be entered between its "
                    "convolutions, which a method asks for; RetinaNet and FCOS have. Choose another method for outputs"
                )
            found[at] = {
                name: BranchMaps(stack.enter_context(branch.record(at.position)), partial(branch.resume, at.position))
                for name, branch in branches.items()
            }
        yield found


def with_heads(detector: Detector, role: str) -> DetectorWithHeads:
    """The detector itself. Raises EyasError when it gives no head outputs."""
    if not isinstance(detector, DetectorWithHeads):
        raise EyasError(
            f"the {role}, a {type(detector).__name__}, gives no head outputs or proposals, which a method asks for; "
            "use methods that compare features, or give it losses_and_heads() and score_boxes(), see "
            "eyas.types.DetectorWithHeads"
        )
    return detector


def as_batch(images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Sequence[Target]]:
    """Images as one float batch; targets of images that were padded here say the size of their image inside it.

    The images are (batch, 3, height, width), float32 in [0, 1] or uint8; or a sequence of (3, height, width). Boxes of
    integers become float32, which detectors need.
    """
    targets = [t if t["boxes"].is_floating_point() else {**t, "boxes": t["boxes"].float()} for t in targets]
    if isinstance(images, Tensor):
        return as_float(images), targets
    return padded_batch([as_float(image) for image in images], MULTIPLE), [
        {**target, "size": size_of(image)} for image, target in zip(images, targets, strict=True)
    ]
