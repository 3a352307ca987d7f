"""What padding does to a detector's scores: ShuffleDet on faint digits that are padded on the right.

``python -m benchmarks.padding DATA [--json FILE] [--images N]``; DATA is composed by the recipe digits/teacher. "alone"
shows the detector each image without its padding, as every command does; "padded" shows it the padded image as if that
were the image, as a call of ``detector.predict`` without sizes does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional as F

from eyas import load
from eyas.data import collate, eval_transform, read
from eyas.data.dataset import DetectionDataset, to_record_frame
from eyas.data.options import Resize
from eyas.evaluation import METRICS
from eyas.evaluation.predict import predict_batch
from eyas.types import Prediction, Target

TEACHER = Path(__file__).parents[1] / "results" / "digits_methods" / "teacher"
PADS = (0, 80, 160, 480)
"""Pixels on the right of images of 160."""


def scores(data: Path, pad: int, count: int) -> dict[str, dict[str, float]]:
    """mAP and mAP75 of both ways to show the padded images."""
    source, detector = read(data, "val"), load(str(TEACHER))
    dataset = DetectionDataset(source, eval_transform(Resize(height=160, width=160)))
    found: dict[str, list[Prediction]] = {"alone": [], "padded": []}
    detector.network.eval()
    with torch.no_grad():
        for index in range(count):
            images, targets = collate([dataset[index]])
            padded = F.pad(images, (0, pad))
            unsized: list[Target] = [{"boxes": target["boxes"], "labels": target["labels"]} for target in targets]
            for name, known in (("alone", targets), ("padded", unsized)):
                (prediction,) = predict_batch(detector, padded, known)
                found[name].append(to_record_frame(prediction, source.records[index], (160, 160)))
    records = source.records[:count]
    results = {name: METRICS["coco"].evaluate(records, source.classes, one).summary for name, one in found.items()}
    return {name: {metric: result[metric] for metric in ("map", "map_75")} for name, result in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=60)
    arguments = parser.parse_args()
    rows = {str(pad): scores(arguments.data, pad, arguments.images) for pad in PADS}
    for pad, row in rows.items():
        shown = "   ".join(f"{name} mAP {one['map']:.3f} mAP75 {one['map_75']:.3f}" for name, one in row.items())
        print(f"padded by {pad:>3}   {shown}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"images": arguments.images, "padded_by": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
