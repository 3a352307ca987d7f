"""`eyas report`: from run folders to one page."""

from __future__ import annotations

from pathlib import Path

from eyas.args import BatchArgs, SplitArgs, at_least, between
from eyas.tools.output_paths import check_output_files


def report(
    runs: list[Path],
    subset: SplitArgs = SplitArgs(),
    teacher: str | None = None,
    out: Path | None = None,
    rank_by: str | None = None,
    threshold: float = 0.3,
    images: int = 3,
    feed: BatchArgs = BatchArgs(),
) -> None:
    """Make one HTML page from runs: metrics, curves, errors, cost, masks, and images with each detector's detections.

    Args:
        runs: run folders, or folders of run folders as compare and demo make.
        teacher: run folder of the teacher, or package.module:function; the one that the runs name when left out.
        out: the page; report.html in the first of the folders when left out.
        rank_by: the metric to rank by, such as map_75; mAP when left out.
        threshold: lowest score of the detections that are judged and drawn.
        images: how many of the worst and how many of the best images are shown.
    """
    between(0, 1, threshold=threshold)
    at_least(1, images=images)
    path = out or runs[0] / "report.html"
    check_output_files(path)
    from eyas.comparison.equal_time import read_decided
    from eyas.comparison.schedules import compare_schedules
    from eyas.comparison.statistics import compare_arms
    from eyas.report.collect import ReportOptions, collect
    from eyas.report.page import make_page
    from eyas.report.runs import find_runs
    from eyas.tools.devices import pick_device
    from eyas.tools.files import make_folder, write_text
    from eyas.tools.progress import Progress

    device = pick_device(feed.device)
    options = ReportOptions(subset.data, subset.split, teacher, threshold, images, feed.dataset(), device, subset.boxes)
    found = find_runs(runs, teacher)
    comparison = compare_arms(found.results(), rank_by)
    decided = [each for folder in runs for each in read_decided(folder)]
    schedules = compare_schedules(found.results(), found.times(), decided, comparison.metric)
    with Progress() as progress:
        content = collect(found, comparison, options, progress, schedules)
        progress.say("drawing")
        text = make_page(content)
    for note in (*found.notes, *content.notes):
        print(f"note: {note}")
    make_folder(path.parent)
    write_text(path, text)
    print(f"{path}: {len(found.runs())} runs on one page of {len(text.encode()) / 1e6:.1f} MB; open it in a browser")
