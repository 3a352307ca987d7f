"""`eyas report`: from run folders to one page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eyas.args import DataArgs
from eyas.comparison.statistics import compare_arms
from eyas.report.collect import ReportOptions, collect
from eyas.report.page import make_page
from eyas.report.runs import find_runs
from eyas.tools.devices import pick_device
from eyas.tools.files import make_folder, write_atomic
from eyas.tools.progress import Progress


def report(
    runs: list[Path],
    data: Path | None = None,
    split: str | None = None,
    teacher: str | None = None,
    out: Path | None = None,
    metric: str | None = None,
    threshold: float = 0.3,
    images: int = 3,
    batch_size: int = 8,
    workers: int = 1,
    device: Literal["auto", "cpu"] = "auto",
) -> None:
    """Make one HTML page from runs: metrics, curves, errors, cost, masks, and images with each detector's detections.

    Args:
        runs: run folders, or folders of run folders as compare and demo make.
        data: folder of a data set; the runs' own when left out.
        split: split of the images; the runs' validation split when left out.
        teacher: run folder of the teacher, or package.module:function; the one that the runs name when left out.
        out: the page; report.html in the first of the folders when left out.
        metric: the metric to rank by, such as map_75; mAP when left out.
        threshold: lowest score of the detections that are judged and drawn.
        images: how many of the worst and how many of the best images are shown.
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
    """
    feed = DataArgs(batch_size=batch_size, workers=workers)
    options = ReportOptions(data, split, teacher, threshold, images, feed, pick_device(device))
    found = find_runs(runs, teacher)
    comparison = compare_arms(found.results(), metric)
    with Progress() as progress:
        content = collect(found, comparison, options, progress)
        progress.say("drawing")
        text = make_page(content)
    for note in (*found.notes, *content.notes):
        print(f"note: {note}")
    path = out or runs[0] / "report.html"
    make_folder(path.parent)
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(f"{path}: {len(found.runs())} runs on one page of {len(text.encode()) / 1e6:.1f} MB; open it in a browser")
