"""Folders that hold no data set that is read: what is in them, for one message that helps."""

from __future__ import annotations

from pathlib import Path

from eyas.data.folders import files_in
from eyas.data.images import SUFFIXES, UNREAD

EXPORT = "it is not read; export it as COCO, VOC or YOLO"
THROUGH = f"{EXPORT}, or open it by supervision and give that to eyas.from_supervision"
KINDS = (
    ("metadata.jsonl", f"that of a Hugging Face image folder, whose first line has no file_name and boxes: {EXPORT}"),
    ("metadata.csv", "that of a Hugging Face image folder: write the boxes into metadata.jsonl, which is read"),
    ("*.arrow", "a file of Hugging Face's datasets: give the folder of save_to_disk, or hf:ORG/NAME"),
    ("*.tfrecord*", f"a data set in TFRecord: {EXPORT}"),
    ("_annotations.csv", f"a CSV of boxes: {EXPORT}"),
    ("*.createml.json", f"a data set in CreateML's format: {THROUGH}"),
    ("samples.json", f"a data set in FiftyOne's own format: {EXPORT}"),
    ("annotations.xml", f"CVAT's own XML: {EXPORT}"),
    ("*.zip", "an archive: unpack it, and give the folder"),
    ("*.tar", "an archive: unpack it, and give the folder"),
    ("*.tar.gz", "an archive: unpack it, and give the folder"),
    ("*.tgz", "an archive: unpack it, and give the folder"),
    ("*.csv", f"a CSV: if it has the boxes, {EXPORT}"),
)
"""Pattern of a file's name, and what a folder is that has one."""
SHAPES = {
    b'"shapes"': f"a LabelMe file for each image: {THROUGH}",
    b'"regions"': f"a project of VIA: {EXPORT}",
    b'"data"': f"Label Studio's own JSON: {EXPORT}",
}
"""A key of a JSON file, and what the file is."""
HEAD = 65536
NAMES = "names: [first class, second class]"


def described(root: Path) -> str:
    """A sentence about what a folder without a data set has in it; empty where nothing is known."""
    folders = [root, *sorted(path for path in root.glob("[!._]*") if path.is_dir())]
    for pattern, what in KINDS:
        for path in (path for folder in folders for path in sorted(folder.glob(pattern))):
            return f"{path} is {what}"
    for path in (path for folder in folders for path in files_in(folder, ".json")[:1]):
        with path.open("rb") as file:
            head = file.read(HEAD)
        for key, what in SHAPES.items():
            if key in head:
                return f"{path} is {what}"
    labels = next((path for folder in folders for path in sorted(folder.glob("**/*.txt")) if _is_yolo(path)), None)
    if labels is not None:
        return (
            f"{labels} looks like labels of YOLO: write {root / 'data.yaml'} with {NAMES} and train: FOLDER OF IMAGES"
        )
    images = next((path for folder in folders for path in files_in(folder, *SUFFIXES, *UNREAD)), None)
    return f"there are images, such as {images}, but no annotations" if images else ""


def _is_yolo(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        words = file.readline(4096).split()
    return len(words) == 5 and words[0].isdigit() and all(word.replace(b".", b"", 1).isdigit() for word in words[1:])
