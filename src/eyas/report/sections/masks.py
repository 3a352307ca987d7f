"""The near-object masks of the teacher's levels, drawn on the first images with objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor

from eyas.data.dataset import first_with_objects
from eyas.evaluation.variance import view_and_masks
from eyas.nn.eval_mode import eval_mode
from eyas.ops.near_objects import AssignmentRule
from eyas.ops.pixels import image_cells
from eyas.report.collect import LeftOut, ReportData
from eyas.report.markup import Html, counted, figure, grid, join, paragraph, picture
from eyas.report.plots import draw_near_masks, rendered
from eyas.report.runs import TEACHER, Run
from eyas.types import Detector, Target, image_sizes

BACKGROUND = "#e8eaed"
"""Behind the titles, in light and dark mode."""
STYLE = {"figure.facecolor": BACKGROUND, "savefig.facecolor": BACKGROUND, "savefig.dpi": 200}


def section(data: ReportData) -> Html:
    source, _ = data.source_and_detections()
    if TEACHER not in data.models:
        raise LeftOut("the masks are those of the teacher's levels, and there is no teacher here to load.")
    teacher = data.models[TEACHER]
    psi, assignment, origin = mask_options([data.runs[data.best_arm], *data.runs.values()])
    images, targets = first_with_objects(source, teacher.resize)
    draw = partial(draw_masks, detector=teacher.detector, psi=psi, assignment=assignment)
    shown = []
    for index, target in enumerate(targets):
        jpeg = rendered(partial(draw, images=images[index : index + 1], targets=[target]), "jpg", STYLE)
        name, count = source.records[target["index"]].image_id, len(target["boxes"])
        alt = f"Image {name} with its {count} objects and the cells near them, by level"
        shown.append(figure(picture(jpeg, alt), f"image {name}: {counted(count, 'object')}"))
    note = (
        f"The cells of the teacher's feature levels that are near an object by psi {psi:g}, {assignment} ({origin}): "
        "where a student of fine-grained feature imitation copies the teacher. Shaded cells are near, objects are "
        "framed."
    )
    return join([paragraph(note, kind="note"), grid(shown, kind="small")])


def mask_options(runs: Iterable[Run]) -> tuple[float, AssignmentRule, str]:
    """psi and assignment of the first run whose method has them, and a phrase that says where they come from."""
    for run in runs:
        methods = run.config.get("method")
        for method in methods if isinstance(methods, list) else [methods]:
            options = (method or {}).get("init_args", {})
            if "psi" in options and options.get("assignment", "global") in get_args(AssignmentRule):
                return float(options["psi"]), options.get("assignment", "global"), f"as in {run.folder.name}"
    return 0.5, "global", "the default, since no method here has a mask of its own"


def draw_masks(
    detector: Detector, images: Tensor, targets: Sequence[Target], *, psi: float, assignment: AssignmentRule
) -> Figure:
    """The near cells of every level over the images, without those of padding."""
    parameter = next(detector.network.parameters())
    with eval_mode(detector.network), torch.no_grad():
        view, masks = view_and_masks(detector, images.to(parameter.device), targets, psi=psi, assignment=assignment)
    sizes = image_sizes(targets, view.image_size)
    shown, strides = [], [level.stride for level in view.levels]
    for mask, stride in zip(masks, strides, strict=True):
        image = image_cells((mask.shape[1], mask.shape[2]), stride, sizes)
        rows, columns = (image.any(dim=0).any(dim=axis).sum() for axis in (1, 0))
        shown.append((mask.cpu() & image)[:, :rows, :columns])
    return draw_near_masks(list(images), targets, shown, strides)
