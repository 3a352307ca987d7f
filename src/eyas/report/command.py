"""`eyas report`: from run folders to one page. The page needs no network; what cannot be shown, it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from eyas.args import DataArgs
from eyas.arms import PLAIN
from eyas.commands import pick_device
from eyas.comparison import report as compare_runs
from eyas.comparison import title
from eyas.files import make_folder, write_atomic
from eyas.progress import Progress
from eyas.report.logged import classes_part, curves_part, summary_part
from eyas.report.markup import Html, join, page, paragraph
from eyas.report.mistakes import errors_part, masks_part, pictures_part
from eyas.report.runs import TEACHER, Arms, Found, find_runs
from eyas.report.scene import Scene, Sight, look_at, mask_options, shown_arm
from eyas.report.watched import cost_part, precision_recall_part
from eyas.types import EyasError

NAMED = 4
"""Arms that the title names; of more it says how many there are."""


def report(
    runs: list[Path],
    data: Path | None = None,
    split: str | None = None,
    teacher: str | None = None,
    out: Path | None = None,
    figure: str | None = None,
    threshold: float = 0.3,
    images: int = 3,
    batch_size: int = 8,
    workers: int = 1,
    device: Literal["auto", "cpu"] = "auto",
) -> None:
    """Make one HTML page from runs: figures, curves, errors, cost, masks, and images with what each detector found.

    Args:
        runs: run folders, or folders of run folders as compare and demo make.
        data: folder of a data set; the runs' own when left out.
        split: split to look at; the runs' validation split when left out.
        teacher: run folder of the teacher, or package.module:function; the one that the runs name when left out.
        out: the page; report.html in the first of the folders when left out.
        figure: the figure to rank by, such as map_75; mAP when left out.
        threshold: lowest score of the detections that are judged and drawn.
        images: how many of the worst and how many of the best images are shown.
        batch_size: images at a time.
        workers: processes that decode images.
        device: auto takes the accelerator where there is one; cpu does not.
    """
    feed = DataArgs(batch_size=batch_size, workers=workers)
    sight = Sight(data, split, teacher, threshold, images, feed, pick_device(device))
    found = find_runs(runs, teacher)
    figures = ranked_by(found.arms, figure)
    with Progress() as progress:
        scene = look_at(found, sight, progress)
        progress.say("drawing")
        text = make_page(found, figures, scene, sight)
    for note in (*found.notes, *scene.notes):
        print(f"note: {note}")
    path = out or runs[0] / "report.html"
    make_folder(path.parent)
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(f"{path}: {len(found.runs())} runs on one page of {len(text.encode()) / 1e6:.1f} MB; open it in a browser")


def ranked_by(arms: Arms, figure: str | None) -> dict[str, Any]:
    """The figures of the comparison. Raises EyasError when the runs have no such figure."""
    results = {name: {seed: run.result for seed, run in seeds.items()} for name, seeds in arms.items()}
    try:
        return compare_runs(results, figure)
    except KeyError as error:
        known = ", ".join(next(run for seeds in results.values() for run in seeds.values()).summary)
        raise EyasError(f"--figure {figure}: the runs have {known}") from error


def make_page(found: Found, figures: Mapping[str, Any], scene: Scene, sight: Sight) -> str:
    """The page, as HTML."""
    name, arms = figures["figure"], list(found.arms)
    sections = {
        "summary": ("Summary", summary_part(found, figures)),
        "curves": ("Curves", curves_part(found.arms, name)),
        "classes": ("Average precision by class", classes_part(found.arms, name)),
        "cost": ("Size and latency against accuracy", _cost(scene, figures, arms)),
        **_of_images(scene, figures, sight, arms),
    }
    heading = ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
    return page(f"Eyas report: {heading}", _lead(found, scene, figures), sections)


def _lead(found: Found, scene: Scene, figures: Mapping[str, Any]) -> Html:
    """What the page is about, in a few sentences."""
    seeds = sorted({run.seed for run in found.runs()})
    words = f"Runs: {len(found.runs())}. Arms: {', '.join(found.arms)}. Seeds: {', '.join(map(str, seeds))}. "
    words += f"Ranked by {title(figures['figure'])}."
    parts = [paragraph(words)]
    if scene.source is not None:
        looked = ", ".join(f"{run.folder.name}" for run in scene.runs.values())
        count, split = len(scene.source.records), scene.source.split
        words = f"Detections are those of one run for each arm ({looked}) on the {count:,} images of {split}."
        parts.append(paragraph(words, kind="note"))
    if found.teachers:
        words = f"Not an arm, since other runs have it as their teacher: {', '.join(found.teachers)}."
        parts.append(paragraph(words, kind="note"))
    return join([*parts, *(paragraph(note, kind="missing") for note in scene.notes)])


def _cost(scene: Scene, figures: Mapping[str, Any], arms: list[str]) -> Html:
    if not scene.models:
        return paragraph("Left out: none of the runs has its weights, which are measured.", kind="missing")
    return cost_part(scene.models, figures, arms)


def _of_images(scene: Scene, figures: Mapping[str, Any], sight: Sight, arms: list[str]) -> dict[str, tuple[str, Html]]:
    """The parts that need images, or in their place why they are not there."""
    titles = {
        "precision-recall": "Precision and recall",
        "errors": "Errors by kind",
        "masks": "Near-object masks",
        "images": "Worst and best images",
    }
    if scene.source is None or not scene.seen:
        lacking = "the data cannot be read" if scene.source is None else "none of the runs has its weights"
        reason = paragraph(f"Left out: {lacking}; see the top of the page.", kind="missing")
        return {name: (words, reason) for name, words in titles.items()}
    by = shown_arm(scene, figures)
    columns = [name for name in (TEACHER, PLAIN, by) if name in scene.seen]
    parts = (
        precision_recall_part(scene.seen, scene.source, arms),
        errors_part(scene.seen, scene.source, sight.threshold),
        _masks(scene, by),
        pictures_part(scene.seen, scene.source, list(dict.fromkeys(columns)), by, sight.images),
    )
    return {name: (words, part) for (name, words), part in zip(titles.items(), parts, strict=True)}


def _masks(scene: Scene, by: str) -> Html:
    if scene.source is None or TEACHER not in scene.models:
        words = "Left out: the masks are those of the teacher's levels, and there is no teacher here to load."
        return paragraph(words, kind="missing")
    psi, assignment, origin = mask_options([scene.runs[by], *scene.runs.values()])
    teacher = scene.models[TEACHER]
    return masks_part(teacher.detector, scene.source, teacher.resize, psi=psi, assignment=assignment, of=origin)
