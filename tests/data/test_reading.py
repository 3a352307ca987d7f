"""Which format a folder is taken for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eyas.data import read
from eyas.types import EyasError
from helpers.tiny import write_squares


def test_nothing_recognised_lists_what_was_looked_for(tmp_path):
    with pytest.raises(EyasError, match=r"instances_train\.json.*ImageSets/Main/train\.txt.*label_2/.*data\.yaml"):
        read(tmp_path, "train")


def test_two_formats_ask_for_a_choice(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "label_2").mkdir()
    with pytest.raises(EyasError, match="looks like kitti and yolo data; choose one by --dataset\\.format"):
        read(tmp_path, "train")
    with pytest.raises(EyasError, match=r"no images \(yolo format\)"):
        read(tmp_path, "train", format="yolo")


def test_bad_options(tmp_path):
    with pytest.raises(EyasError, match="no such folder"):
        read(tmp_path / "absent", "train")
    with pytest.raises(EyasError, match="format 'csv' is unknown; choose one of coco, voc, kitti, yolo"):
        read(tmp_path, "train", format="csv")
    with pytest.raises(EyasError, match="has no voc data; looked for Annotations/"):
        read(tmp_path, "train", format="voc")
    with pytest.raises(EyasError, match="must be distinct and at least one, got: a, a"):
        read(tmp_path, "train", classes=["a", "a"])
    with pytest.raises(EyasError, match="at least one, got: none"):
        read(tmp_path, "train", classes=[])


def test_annotations_are_read_without_torch(tmp_path):
    """Which takes seconds to import, and `eyas data` would wait for it."""
    write_squares(tmp_path)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from eyas.data import read, report\n"
        f"print(report(read(Path({str(tmp_path)!r}), 'train')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stderr == "" and "8 images (0 without objects)" in ran.stdout
