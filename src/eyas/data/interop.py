"""Data sets of other libraries as sources, and predictions as another library has them: supervision, torchvision,
Hugging Face's datasets.

supervision and datasets are extras, ``pip install eyas[supervision,datasets]``, imported when a function needs them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchvision.datasets import CocoDetection

from eyas.data.formats import hub
from eyas.data.formats.checks import checked
from eyas.data.formats.coco import parse, records_of
from eyas.data.formats.places import Place
from eyas.data.formats.records import Annotation, DataSource, build_record
from eyas.data.images import width_and_height
from eyas.data.options import BOX_FORMS, BoxForm
from eyas.types import EyasError, Prediction

if TYPE_CHECKING:
    from datasets import Dataset
    from supervision import DetectionDataset, Detections


def from_supervision(dataset: DetectionDataset, split: str = "train") -> DataSource:
    """A supervision ``DetectionDataset`` as a source, scored by the COCO metric unless you choose another.

    Its classes keep their order. Where ``Detections.data`` has ``iscrowd``, as for COCO files, such boxes are ignore
    regions; where it has no ``area``, an object's is that of its mask or, without one, of its box.

    Args:
        dataset: its images are files; only their headers are read here.
        split: what messages call it.

    Raises:
        EyasError: supervision is missing; another type of data set; images in memory only; boxes without a class; an
            image that cannot be read; no image at all.
    """
    if not isinstance(dataset, _supervision().DetectionDataset):
        raise EyasError(f"from_supervision takes a supervision.DetectionDataset, not a {type(dataset).__name__}")
    paths = [Path(path) for path in dataset.image_paths]
    root = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    records, problems = [], []
    for name, path in zip(dataset.image_paths, paths, strict=True):
        if not path.is_file():
            raise EyasError(f"{path}: no such image file; save the images of a data set that has them in memory")
        image_id = path.absolute().relative_to(root).as_posix()
        annotations = _annotations(dataset.annotations[name], path)
        record, wrong = build_record(image_id, path, width_and_height(path), annotations, path)
        records.append(record)
        problems += wrong
    return checked(DataSource("coco", root, split, tuple(dataset.classes), tuple(records), tuple(problems)))


def from_coco_detection(dataset: CocoDetection, split: str = "train") -> DataSource:
    """A torchvision ``CocoDetection`` as a source: its images in its order, labels by rising category id.

    The data set's own transforms are not applied: images are resized and augmented as everywhere in Eyas.

    Args:
        dataset: torchvision's own, not a wrapper or a subset of it.
        split: what messages call it.

    Raises:
        EyasError: another type of data set, annotations that are not COCO's, a missing image, or no image at all.
    """
    if not isinstance(dataset, CocoDetection):
        raise EyasError(
            f"from_coco_detection takes a torchvision.datasets.CocoDetection, not a {type(dataset).__name__}; give the "
            "data set itself, not a Subset or a wrapper of it"
        )
    root = Path(dataset.root)
    known, found, problems = parse(dataset.coco.dataset, root, None)
    images = [dataset.coco.imgs[key] for key in dataset.ids]
    records, wrong = records_of(images, found, Place(root), root, root)
    return checked(DataSource("coco", root, split, known, tuple(records), (*problems, *wrong)))


def from_hf(dataset: Dataset, boxes: BoxForm, split: str = "train") -> DataSource:
    """A ``datasets.Dataset`` as a source, scored by the COCO metric unless you choose another.

    It has one column of images, and one column such as ``objects: {bbox, category}``, or columns of boxes and classes.
    Where classes are numbers without names, the numbers are their names. Images are read when they are needed, from
    the Arrow files that the data set has on disk; its format and transforms are not applied.

    Args:
        dataset: one split, such as ``datasets.load_dataset("ORG/NAME", split="train")``.
        boxes: "xywh" for x, y, width, height, or "xyxy" for x1, y1, x2, y2, in pixels: no data set says it.
        split: what messages call it.

    Raises:
        EyasError: datasets is missing; another type of data set; columns that are missing or could be several; a box
            or class that is none; an image that cannot be read; no image at all.
    """
    package = hub.datasets_package()
    if isinstance(dataset, package.IterableDataset):
        raise EyasError(
            "from_hf takes a data set whose rows can be reached in any order, as every epoch draws another one and a "
            "run goes on in its middle: load it without streaming=True; images then stay on disk until they are needed"
        )
    if not isinstance(dataset, package.Dataset):
        raise EyasError(f"from_hf takes a datasets.Dataset, one split, not a {type(dataset).__name__}")
    if boxes not in BOX_FORMS:
        raise EyasError(f"boxes must be {' or '.join(BOX_FORMS)}, got {boxes!r:.60}")
    return checked(hub.source_of(dataset, Path(dataset.info.dataset_name or "datasets"), split, boxes))


def to_supervision(prediction: Prediction, classes: Sequence[str] | None = None) -> Detections:
    """A prediction as ``supervision.Detections``: (n, 4) xyxy pixels, confidence, class_id.

    Args:
        prediction: the detections in one image, in the frame that you draw or count in.
        classes: the class names in label order; with them ``data["class_name"]`` is set, which annotators show.

    Raises:
        EyasError: supervision is missing, or a label has no name.
    """
    supervision = _supervision()
    boxes, scores, labels = (prediction[key].detach().cpu() for key in ("boxes", "scores", "labels"))
    data: dict[str, Any] = {}
    if classes is not None:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
            raise EyasError(f"a label is outside the {len(classes)} classes; give the classes of the detector")
        data = {"class_name": [classes[label] for label in labels.tolist()]}
    detections: Detections = supervision.Detections(
        xyxy=boxes.float().numpy(), confidence=scores.float().numpy(), class_id=labels.numpy(), data=data
    )
    return detections


def _annotations(detections: Detections, path: Path) -> list[Annotation]:
    """The annotations of one image, not checked yet."""
    count = len(detections)
    if not count:
        return []
    if detections.class_id is None:
        raise EyasError(f"{path}: its {count} boxes have no class_id; give every box a class")
    crowd, area = detections.data.get("iscrowd"), detections.data.get("area")
    crowd = [False] * count if crowd is None else crowd
    area = detections.area if area is None else area
    found = []
    for number, (x1, y1, x2, y2) in enumerate(detections.xyxy.tolist()):
        ignore, label = bool(crowd[number]), int(detections.class_id[number])
        attributes = {} if ignore else {"area": float(area[number])}
        found.append(Annotation((x1, y1, x2, y2), label, None, ignore, attributes, f"box {number}"))
    return found


def _supervision() -> Any:
    """The supervision package. Raises EyasError when it is not installed."""
    try:
        import supervision
    except ImportError as error:
        raise EyasError("this needs supervision: pip install 'eyas[supervision]'") from error
    return supervision
