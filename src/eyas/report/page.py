"""The page of a report, from its parts. It needs no network; what cannot be shown, it says."""

from __future__ import annotations

from eyas.comparison.arms import BASELINE
from eyas.comparison.statistics import Comparison, compare_arms, title
from eyas.report.logged import classes_part, curves_part, summary_part
from eyas.report.markup import Html, join, page, paragraph
from eyas.report.mistakes import errors_part, masks_part, pictures_part
from eyas.report.runs import TEACHER, Arms, Found
from eyas.report.scene import Scene, Sight, mask_options, shown_arm
from eyas.report.watched import cost_part, precision_recall_part

NAMED = 4
"""Arms that the title names; of more it says how many there are."""


def compare_found(arms: Arms, metric: str | None) -> Comparison:
    """The comparison of the runs that were found. Raises EyasError when they have no such metric."""
    results = {name: {seed: run.result for seed, run in seeds.items()} for name, seeds in arms.items()}
    return compare_arms(results, metric)


def make_page(found: Found, comparison: Comparison, scene: Scene, sight: Sight) -> str:
    """The page, as HTML."""
    name, arms = comparison.metric, list(found.arms)
    sections = {
        "summary": ("Summary", summary_part(found, comparison)),
        "curves": ("Curves", curves_part(found.arms, name)),
        "classes": ("Average precision by class", classes_part(found.arms, name)),
        "cost": ("Size and latency against accuracy", _cost(scene, comparison, arms)),
        **_of_images(scene, comparison, sight, arms),
    }
    heading = ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} arms"
    return page(f"Eyas report: {heading}", _lead(found, scene, comparison), sections)


def _lead(found: Found, scene: Scene, comparison: Comparison) -> Html:
    """What the page is about, in a few sentences."""
    seeds = sorted({run.seed for run in found.runs()})
    words = f"Runs: {len(found.runs())}. Arms: {', '.join(found.arms)}. Seeds: {', '.join(map(str, seeds))}. "
    words += f"Ranked by {title(comparison.metric)}."
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


def _cost(scene: Scene, comparison: Comparison, arms: list[str]) -> Html:
    if not scene.models:
        return paragraph("Left out: none of the runs has its weights, which are measured.", kind="missing")
    return cost_part(scene.models, comparison, arms)


def _of_images(scene: Scene, comparison: Comparison, sight: Sight, arms: list[str]) -> dict[str, tuple[str, Html]]:
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
    by = shown_arm(scene, comparison)
    columns = [name for name in (TEACHER, BASELINE, by) if name in scene.seen]
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
