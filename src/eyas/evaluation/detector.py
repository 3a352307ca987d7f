"""The score of a detector on a data set, from Python: what `eyas evaluate` does."""

from __future__ import annotations

from pathlib import Path

from eyas.args import DataArgs
from eyas.data import DataSource, Resize, read
from eyas.data.options import BoxForm
from eyas.detectors import check_detector
from eyas.detectors.class_names import match_by_name, shared_classes
from eyas.evaluation import EvaluationResult, default_metric
from eyas.evaluation.predict import batches_on, predict_records, score
from eyas.nn.taps import some_parameter
from eyas.tools.progress import Progress
from eyas.types import Detector


def evaluate(
    detector: Detector,
    data: str | Path | DataSource,
    split: str = "val",
    *,
    metric: str | None = None,
    classes: list[str] | None = None,
    boxes: BoxForm | None = None,
    resize: Resize | None = None,
    batch_size: int = 8,
    workers: int = 0,
) -> EvaluationResult:
    """Score a detector on every image of a split: mAP and what else the metric has, per class and in the mean.

    Classes are matched by name, so a detector may know more classes than the data has, in any order; a class of the
    data that it does not know is left out of the mean.

    Args:
        detector: any detector, on the device where it is to run; its mode and device stay as they are.
        data: folder of a data set, recognised from its files, or another name that `eyas.read` takes; or what that
            returns, whose split and classes then count.
        split: name of the split.
        metric: "coco", "voc" or "kitti", or "coco_max300" for so many detections of a class in an image; by default the
            data format's.
        classes: class names of the data, in label order; by default the data set's own.
        boxes: "xywh" or "xyxy", how boxes are written, for the formats that leave it open (imagefolder, hf).
        resize: size of the detector's input; by default the image's.
        batch_size: images at a time.
        workers: processes that decode images.

    Returns:
        The metrics, each in [0, 1]: ``result.primary`` is the mAP, ``result.summary`` has all means by name,
        ``result.per_class`` those of each class, and ``print(result.table())`` shows them.

    Raises:
        EyasError: no detector, data that cannot be read, no class name that both have, an unknown metric, or images
            that the detector cannot take.
    """
    check_detector(detector, "eyas.evaluate")
    source = data if isinstance(data, DataSource) else read(Path(data), split, classes=classes, boxes=boxes)
    rule, device = metric or default_metric(source.format), some_parameter(detector).device
    matched = match_by_name(detector, source.classes, "the detector")
    batches = batches_on(device, source, DataArgs(resize=resize or Resize(), batch_size=batch_size, workers=workers))
    found = predict_records(matched, batches, source, Progress(quiet=True), "evaluate")
    return score(rule, source, found).restricted_to(shared_classes(detector.classes, source.classes))
