"""A detector over a data set: predictions in the frame of the image files, and their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from eyas.args import DataArgs
from eyas.data import DataSource, eval_transform, loader, to_record_frame
from eyas.data.dataset import Loader
from eyas.data.worker_watch import name_failed_images, safe_batches, with_timeout
from eyas.detectors.prediction_checks import as_predictions
from eyas.evaluation import EvaluationResult, evaluate
from eyas.nn.eval_mode import eval_mode
from eyas.nn.failures import running
from eyas.ops.pixels import as_float
from eyas.tools.progress import Progress
from eyas.types import Detector, EyasError, Prediction, Target, image_sizes, size_of

Batches = Iterable[tuple[Tensor, list[Target]]]


def predict_records(
    detector: Detector, batches: Batches, source: DataSource, progress: Progress, name: str
) -> dict[int, Prediction]:
    """Detections by record index, on the CPU, in the frame of the image files.

    Args:
        detector: left in the mode it was in.
        batches: images and targets of the source, on the detector's device, in any order, some or all.
        source: the data set.
        progress, name: where a bar is shown, and what it is called.
    """
    predictions: dict[int, Prediction] = {}
    task = progress.task(name, len(source.records))
    with eval_mode(detector.network), torch.no_grad(), name_failed_images(batches):
        for images, targets in with_timeout(batches, batches):
            for prediction, target in zip(
                predict_batch(detector, images, targets, f"detector ({name})"), targets, strict=True
            ):
                index = target["index"]
                predictions[index] = to_record_frame(on_cpu(prediction), source.records[index], target["size"])
            progress.advance(task, len(targets))
    progress.finish(task)
    return predictions


def predict_batch(
    detector: Detector, images: Tensor, targets: Sequence[Target], name: str = "detector"
) -> list[Prediction]:
    """The detections in each image of a batch, which do not depend on the other images.

    Each image is seen without its padding: those of one size go through the detector together. The padding that the
    largest image of a batch gives the others would move the anchors of a detector that spaces them over the image, and
    shifts the scores of any other.

    Args:
        detector: in evaluation mode.
        images: (batch, 3, height, width), uint8 or float32 in [0, 1].
        targets: their ``size`` is (height, width) without the padding; that of the batch where it is missing.
        name: the detector, for the message of an EyasError when it fails.
    """
    batch = size_of(images)
    sizes = image_sizes(targets, batch)
    if set(sizes) <= {batch}:
        return detections(detector, images, f"the {name}")
    found: dict[int, Prediction] = {}
    for height, width in dict.fromkeys(sizes):
        members = [index for index, size in enumerate(sizes) if size == (height, width)]
        same = images[members, :, :height, :width]
        found.update(zip(members, detections(detector, same, f"the {name}"), strict=True))
    return [found[index] for index in range(len(sizes))]


def detections(detector: Detector, images: Tensor, name: str) -> list[Prediction]:
    """What a detector finds in images of one size, as `eyas.types.Prediction` has it.

    Raises:
        EyasError: it fails, or returns something else; ``name`` is the detector, for the message.
    """
    with running(name, images):
        found = detector.predict(as_float(images))
    return as_predictions(found, len(images), detector.classes, name)


def on_cpu(prediction: Prediction) -> Prediction:
    """A prediction, copied to the CPU."""
    return Prediction(
        boxes=prediction["boxes"].cpu(), scores=prediction["scores"].cpu(), labels=prediction["labels"].cpu()
    )


def score_detector(
    detector: Detector, batches: Batches, source: DataSource, metric: str, progress: Progress, name: str
) -> EvaluationResult:
    """Score a detector on every image of a source, each process on its share, behind a progress bar of that name.

    The first process scores the detections of all, and the others have its result: scoring takes gigabytes where the
    images are many.
    """
    shards = gather_object([predict_records(detector, batches, source, progress, name)])
    # Records that are repeated to even out the shards count once.
    found = {index: prediction for shard in shards for index, prediction in shard.items()}
    outcome: list[EvaluationResult | EyasError | None] = [None]
    if PartialState().is_main_process:
        with progress.waiting(f"{name:<9} scoring the detections in {len(found)} images"):
            outcome = [_score_or_error(metric, source, found)]
    result = broadcast_object_list(outcome)[0]
    if isinstance(result, EyasError):
        raise result
    return cast(EvaluationResult, result)


def _score_or_error(
    metric: str, source: DataSource, predictions: dict[int, Prediction]
) -> EvaluationResult | EyasError:
    """`score`, or the error that every process is to raise, since the others wait for the result."""
    try:
        return score(metric, source, predictions)
    except EyasError as error:
        return error


def score(metric: str, source: DataSource, predictions: dict[int, Prediction]) -> EvaluationResult:
    """Evaluate predictions of every record of a source, by index."""
    return evaluate(metric, source.records, source.classes, [predictions[i] for i in range(len(source.records))])


def val_loader(source: DataSource, data: DataArgs) -> Loader:
    """The batches of a data set, resized and not augmented, in order."""
    return loader(
        source,
        eval_transform(data.resize),
        batch_size=data.batch_size,
        shuffle=False,
        workers=data.workers,
        worker_timeout=data.worker_timeout,
        seed=0,
    )


def predict_source(
    detector: Detector, source: DataSource, feed: DataArgs, device: torch.device, progress: Progress, name: str
) -> dict[int, Prediction]:
    """`predict_records` for every image of a source. The detector runs on the device and is on the CPU afterwards."""
    detector.network.to(device)
    found = predict_records(detector, batches_on(device, source, feed), source, progress, name)
    detector.network.cpu()
    return found


def batches_on(device: torch.device, source: DataSource, feed: DataArgs) -> Batches:
    """The batches of `val_loader`, with the images on a device."""
    return ((images.to(device), targets) for images, targets in safe_batches(val_loader(source, feed)))
