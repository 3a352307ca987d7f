"""A detector over a data set: predictions in the frame of the image files, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from eyas.args import DataArgs
from eyas.data import DataSource, eval_transform, loader, to_record_frame
from eyas.data.dataset import Loader
from eyas.data.workers import name_failed_images, safe_batches, with_timeout
from eyas.evaluation import EvaluationResult, evaluate
from eyas.nn.eval_mode import eval_mode
from eyas.nn.taps import tap_features
from eyas.ops.anchors import AnchorGrid
from eyas.ops.pixels import as_float
from eyas.tools.progress import Progress
from eyas.types import Detector, Prediction, Size, Target

Batches = Iterable[tuple[Tensor, list[Target]]]


def predict_records(
    detector: Detector, batches: Batches, source: DataSource, *, advance: Callable[[int], None] | None = None
) -> dict[int, Prediction]:
    """Detections by record index, on the CPU, in the frame of the image files.

    Args:
        detector: left in the mode it was in.
        batches: images and targets of the source, on the detector's device, in any order, some or all.
        source: the data set.
        advance: called with the number of images after each batch.
    """
    predictions: dict[int, Prediction] = {}
    with eval_mode(detector.network), torch.no_grad(), name_failed_images(batches):
        for images, targets in with_timeout(batches, batches):
            for prediction, target in zip(detector.predict(as_float(images)), targets, strict=True):
                index = target["index"]
                predictions[index] = to_record_frame(on_cpu(prediction), source.records[index], target["size"])
            if advance:
                advance(len(targets))
    return predictions


def on_cpu(prediction: Prediction) -> Prediction:
    """A prediction, copied to the CPU."""
    boxes, scores, labels = (prediction[key].cpu() for key in ("boxes", "scores", "labels"))
    return {"boxes": boxes, "scores": scores, "labels": labels}


def score_detector(
    detector: Detector, batches: Batches, source: DataSource, metric: str, progress: Progress, name: str
) -> EvaluationResult:
    """Score a detector on every image of a source, each process on its share, behind a progress bar of that name."""
    task = progress.task(name, len(source.records))
    mine = predict_records(detector, batches, source, advance=lambda images: progress.advance(task, images))
    progress.finish(task)
    return score(metric, source, gather_predictions(mine))


def anchor_grids(detector: Detector, image_size: Size) -> list[AnchorGrid]:
    """The anchors of every level for an input of (height, width), by a forward pass on a blank image."""
    parameter = next(detector.network.parameters())
    features = tap_features(detector, detector.levels, torch.zeros(1, 3, *image_size).to(parameter))
    return [
        level.grid((features[name].shape[-2], features[name].shape[-1]), image_size)
        for name, level in detector.levels.items()
    ]


def score(metric: str, source: DataSource, predictions: dict[int, Prediction]) -> EvaluationResult:
    """Evaluate predictions of every record of a source, by index."""
    ordered: Sequence[Prediction] = [predictions[index] for index in range(len(source.records))]
    return evaluate(metric, source.records, source.classes, ordered)


def gather_predictions(mine: dict[int, Prediction]) -> dict[int, Prediction]:
    """The predictions of all processes, by record index; records padded in to even the shards occur once."""
    shards: list[dict[int, Prediction]] = gather_object([mine])
    return {index: found for shard in shards for index, found in shard.items()}


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
    """Predictions for every image of a source, by record index, behind a progress bar of that name.

    The detector runs on the device and is on the CPU afterwards.
    """
    detector.network.to(device)
    task = progress.task(name, len(source.records))
    batches = ((images.to(device), targets) for images, targets in safe_batches(val_loader(source, feed)))
    found = predict_records(detector, batches, source, advance=lambda images: progress.advance(task, images))
    progress.finish(task)
    detector.network.cpu()
    return found
