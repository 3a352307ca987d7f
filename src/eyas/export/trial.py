"""An exported detector beside PyTorch's on the same images: outputs, score, latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from eyas.args import DataArgs
from eyas.data import DataSource
from eyas.data.worker_watch import safe_batches
from eyas.detectors import Deployed
from eyas.evaluation.predict import predict_records, score, val_loader
from eyas.export.check import CompletedRuntime, failures, latencies, raw_differences, same_score
from eyas.export.formats import ExportedDetector, pad_to
from eyas.export.protocols import Exporter, Files
from eyas.export.ties import TAKES, BreakTies
from eyas.ops.pixels import as_float
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError, Prediction, Size, Target

COMPARED = 16
"""Number of images on which head outputs are compared and latency is measured."""
PYTORCH, INT8 = "PyTorch", "INT8"


@dataclass(frozen=True)
class ExportImages:
    """Images of a data set, one at a time, resized, for an input of a size (height, width), if any."""

    source: DataSource
    feed: DataArgs
    size: Size | None

    def batches(self) -> Iterator[tuple[Tensor, list[Target]]]:
        """Every image with its target, in its own size."""
        for images, targets in safe_batches(val_loader(self.source, self.feed)):
            yield as_float(images), targets

    def __iter__(self) -> Iterator[Tensor]:
        """Every image without its target, (1, 3, height, width), padded to the size."""
        return (images if self.size is None else pad_to(images, self.size) for images, _ in self.batches())

    @property
    def pads(self) -> bool:
        """Whether an image is smaller than the size."""
        sizes = {self.feed.resize.output_size((one.height, one.width)) for one in self.source.records}
        return self.size is not None and sizes != {self.size}

    def first(self, count: int) -> ExportImages:
        """The first ``count`` images."""
        return replace(self, source=replace(self.source, records=self.source.records[:count]))

    def fitting(self) -> ExportImages:
        """The images that the size holds. Raises EyasError when there are none."""
        if self.size is None:
            return self
        height, width = self.size
        sizes = [self.feed.resize.output_size((one.height, one.width)) for one in self.source.records]
        pairs = zip(self.source.records, sizes, strict=True)
        records = [record for record, size in pairs if size[0] <= height and size[1] <= width]
        if not records:
            raise EyasError(f"no image of {self.source.split} fits in {height} x {width}; give --dynamic_size true")
        return replace(self, source=replace(self.source, records=records))

    def score(self, name: str, detector: Detector, metric: str) -> float:
        """The primary metric of a detector on all images, padded to the size."""
        seen = detector if self.size is None else PaddedDetector(detector, self.size)
        with Progress() as progress:
            found = predict_records(seen, self.batches(), self.source, progress, name)
        return score(metric, self.source, found).primary

    def nearest_score(self, wanted: float, own: float, detector: Detector, metric: str) -> float:
        """The `score` of PyTorch's detector: ``own``, or with equal scores in another order if ``wanted`` differs."""
        found = [own]
        for take in TAKES:
            if any(same_score(one, wanted) for one in found):
                break
            with BreakTies(take):
                found.append(self.score(PYTORCH, detector, metric))
        return min(found, key=lambda one: abs(one - wanted))


class PaddedDetector:
    """A detector that pads every image to one size, (height, width), as a file of fixed size does."""

    def __init__(self, detector: Detector, size: Size) -> None:
        self.detector, self.size = detector, size
        self.network, self.classes, self.levels = detector.network, detector.classes, detector.levels

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Those of the detector, of the images as they are."""
        return self.detector.losses(images, targets)

    def predict(self, images: Tensor) -> list[Prediction]:
        """The detections in each padded image, whose frame has the image's origin."""
        return self.detector.predict(pad_to(images, self.size))


@dataclass(frozen=True)
class Trial:
    """What an exporter made of a detector, tried on images. A row is one set of files, by its name in the table.

    Attributes:
        detector: PyTorch's.
        deployed: its graph.
        exporter: what opens the files.
        images: those that are compared and scored.
        metric: the rules of the score.
        raw: the files have no detections.
    """

    detector: Detector
    deployed: Deployed
    exporter: Exporter
    images: ExportImages
    metric: str
    raw: bool

    def open(self, files: Files, threads: int | None = None) -> Detector:
        """A detector from files; PyTorch completes head outputs to detections."""
        runtime = self.exporter.open(files, threads)
        return ExportedDetector(CompletedRuntime(runtime, self.deployed) if self.raw else runtime)

    def differences(self, complete: Files) -> dict[str, float]:
        """`raw_differences` of files that have the head outputs, on the first images."""
        return raw_differences(self.deployed, self.exporter.open(complete), self.images.first(COMPARED))

    def score(self, row: str, files: Files) -> float:
        """The score of a row."""
        return self.images.score(row, self.open(files), self.metric)

    def scores(self, rows: Mapping[str, Files]) -> dict[str, float]:
        """The score of PyTorch's detector, then of each row."""
        ours = self.images.score(PYTORCH, self.detector, self.metric)
        return {PYTORCH: ours, **{row: self.score(row, files) for row, files in rows.items()}}

    def score_without_padding(self) -> float | None:
        """The score of PyTorch's detector on images in their own sizes; None where none is padded."""
        if not self.images.pads:
            return None
        return replace(self.images, size=None).score(f"{PYTORCH}, not padded", self.detector, self.metric)

    def faults(self, differences: Mapping[str, float], ours: float, theirs: float, tolerance: float) -> list[str]:
        """`failures`, where a score is also right that PyTorch reaches by another order of equal scores."""
        expected = self.images.nearest_score(theirs, ours, self.detector, self.metric)
        return failures(differences, tolerance, expected, theirs)

    def latencies(self, rows: Mapping[str, Files], runs: int) -> dict[str, float]:
        """`latencies` of PyTorch's detector and of each row."""
        calls = {name: self.open(files, threads=1).predict for name, files in rows.items()}
        return latencies({PYTORCH: self.detector.predict, **calls}, list(self.images.first(COMPARED)), runs)
