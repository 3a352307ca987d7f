"""The COCO detection metrics, computed by faster-coco-eval (Apache-2.0), a maintained port of pycocotools.

Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014; the rules are those of ``cocoeval.py``: IoU
thresholds 0.50:0.05:0.95, 101 recall points, the 100 best detections of each class in each image. Another limit gives
metrics that do not compare with COCO's, so their names have it: ``map_max300``. Ignore regions are crowd annotations:
an overlap with one is measured over the detection's area, and a detection on one is not counted. A region of every
class is a crowd annotation of every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from eyas.data import DataSource
from eyas.evaluation.inputs import check
from eyas.evaluation.result import EvaluationResult, mean
from eyas.types import Prediction, Record

FORMATS = ("coco", "yolo", "imagefolder", "hf")
LEAVES_OUT = "crowds"
NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
"""AP over the ten thresholds, at 0.5 and at 0.75; by object area, below 32^2, below 96^2 and above; recall at 100.

Object area is ``attributes["area"]`` (COCO's segment area), or the box's where the data set has none.
"""
MAX_DETECTIONS = 100
"""COCO's limit of the detections of one class in one image that count, ``maxDets`` in pycocotools."""


def evaluate(
    records: Sequence[Record],
    classes: Sequence[str],
    predictions: Sequence[Prediction],
    *,
    max_detections: int = MAX_DETECTIONS,
) -> EvaluationResult:
    """COCO's metrics; arguments and errors as for `eyas.evaluation.evaluate`.

    The summary is COCO's own: the mean over classes and thresholds together. It differs from the mean of the classes'
    metrics only by rounding.
    """
    check(records, classes, predictions)
    names = [limited(name, max_detections) for name in NAMES]
    rules = limited("coco", max_detections)
    if not records or not classes:
        undefined = dict.fromkeys(names, float("nan"))
        return EvaluationResult(rules, undefined, {name: dict(undefined) for name in classes})
    truth = COCO(ground_truth(records, classes), print_function=_ignore)
    # Not the class called COCOeval: that one prints.
    evaluation = COCOeval_faster(truth, truth.loadRes(detections(predictions)), "bbox", print_function=_ignore)
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # (threshold, recall, class, area, 1) and (threshold, class, area, 1); -1 is undefined.
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    recall = np.asarray(evaluation.eval["recall"])[..., -1]
    precision, recall = (np.where(values > -1, values, np.nan) for values in (precision, recall))

    def metrics(of: slice) -> dict[str, float]:
        return dict(zip(names, _metrics(precision[:, :, of], recall[:, of]), strict=True))

    per_class = {name: metrics(slice(k, k + 1)) for k, name in enumerate(classes)}
    return EvaluationResult(rules, metrics(slice(None)), per_class)


def limited(name: str, max_detections: int) -> str:
    """The name of a metric, or of the rules, with a limit of detections that is not COCO's."""
    if max_detections == MAX_DETECTIONS:
        return name
    return f"{name.removesuffix(f'_{MAX_DETECTIONS}')}_max{max_detections}"


def ground_truth(records: Sequence[Record], classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The content of a COCO annotation file. Images and annotations count from 1, categories are labels."""
    images, annotations = [], []
    for number, record in enumerate(records, start=1):
        images.append({"id": number, "width": record.width, "height": record.height})
        areas = record.attributes["area"].tolist() if "area" in record.attributes else [None] * len(record.boxes)
        for box, label, area in zip(record.boxes.tolist(), record.labels.tolist(), areas, strict=True):
            annotations.append(_annotation(number, label, box, area, crowd=0))
        for box, label in zip(record.ignore.tolist(), record.ignore_labels.tolist(), strict=True):
            concerned = range(len(classes)) if label == -1 else (label,)
            annotations += [_annotation(number, k, box, None, crowd=1) for k in concerned]
    # An annotation with id 0 would count as "unmatched" in the matcher.
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": label, "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The content of a COCO result file."""
    found = []
    for number, prediction in enumerate(predictions, start=1):
        triples = (prediction[key].tolist() for key in ("boxes", "labels", "scores"))
        for box, label, score in zip(*triples, strict=True):
            found.append({"image_id": number, "category_id": label, "bbox": _xywh(box), "score": score})
    return found


def results(source: DataSource, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The content of a COCO result file with the data set's own ids, and each class and file by name.

    Where the data set has no such ids, categories count from 1 in label order. An image has its id as a number, where
    it is one, and else as text.
    """
    numbers = source.category_ids or tuple(range(1, len(source.classes) + 1))
    found = []
    for record, entries in zip(source.records, map(detections, ([each] for each in predictions)), strict=True):
        number = int(record.image_id) if record.image_id.removeprefix("-").isdecimal() else None
        image = number if str(number) == record.image_id else record.image_id
        for entry in entries:
            label = entry["category_id"]
            names = {"category": source.classes[label], "file_name": record.path.name}
            found.append({**entry, "image_id": image, "category_id": numbers[label], **names})
    return found


def _annotation(image: int, label: int, box: list[float], area: float | None, *, crowd: int) -> dict[str, Any]:
    bbox = _xywh(box)
    area = bbox[2] * bbox[3] if area is None else area
    return {"image_id": image, "category_id": label, "bbox": bbox, "area": area, "iscrowd": crowd}


def _xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _metrics(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """The values of `NAMES`."""
    every = precision[..., 0]
    by_area = [mean(precision[..., area]) for area in (1, 2, 3)]
    return [mean(every), mean(every[0]), mean(every[5]), *by_area, mean(recall[..., 0])]


def _ignore(*_: object) -> None:
    """A print function that prints nothing."""
