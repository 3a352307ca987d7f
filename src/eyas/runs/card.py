"""The model card of a run: what its weights are, in Markdown, from what the run folder records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from eyas.data.options import Resize
from eyas.runs.checkpoint import ModelSpec
from eyas.runs.config import recorded_config
from eyas.runs.log import LOG, read_log
from eyas.runs.results import metric_title, nulls_as_nan
from eyas.tools.files import write_text

CARD = "MODEL_CARD.md"
SHOWN = 3
"""Metrics of each evaluation, the primary one first."""
LICENCE = (
    "Not stated: fill this in before you pass the weights on. The licences of the training images, of pretrained "
    "weights and of the teacher may restrict what may be done with them."
)


def write_card(folder: Path) -> None:
    """Write the card of a run folder into it. Raises EyasError when the disk is full."""
    write_text(folder / CARD, model_card(folder))


def model_card(folder: Path, more: Mapping[str, str] | None = None) -> str:
    """The card of a run folder.

    Args:
        folder: with a model description; what config and log do not tell is left out.
        more: further rows, heading to text, such as those of an exported file.
    """
    spec, config = ModelSpec.load(folder), recorded_config(folder)
    lines = read_log(folder) if (folder / LOG).is_file() else []
    facts = {
        "detector": spec.model if spec.backbone is None else f"{spec.model}, {spec.backbone}",
        "weights": spec.weights,
        "classes": f"{len(spec.classes)}, in label order: {', '.join(spec.classes)}",
        "input": _input(spec.resize),
        **_training(config, _epochs(lines)),
        **_scores(lines),
        **(more or {}),
        "licence": LICENCE,
        "made with": f"Eyas {metadata.version('eyas')}",
    }
    rows = [f"| {_cell(name)} | {_cell(text)} |" for name, text in facts.items()]
    return "\n".join([f"# {_cell(folder.resolve().name)}", "", "| | |", "| --- | --- |", *rows, ""])


def _epochs(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """The epochs that a run has behind it; None where its log does not tell."""
    return max((line["epoch"] for line in lines if line["kind"] == "val"), default=None)


def _training(config: Mapping[str, Any], epochs: int | None) -> dict[str, str]:
    """The rows that the config of a run gives, which may have ended before its last epoch."""
    dataset, run = config.get("dataset", {}), config.get("run", {})
    found = {}
    if config.get("data") is not None:
        splits = f"trained on {dataset.get('train_split', 'train')}, scored on {dataset.get('val_split', 'val')}"
        found["data"] = f"{config['data']}, {splits}"
    if config.get("weights") is not None:
        found["begun from"] = str(config["weights"])
    if run:
        ended = f"{epochs} of " if epochs is not None and epochs != run.get("epochs") else ""
        found["training"] = f"{ended}{run.get('epochs')} epochs, seed {run.get('seed')}"
    if config.get("teacher") is not None:
        scale = float(config.get("teacher_scale") or 1)
        found["teacher"] = str(config["teacher"]) + (f", images {scale:g} times as large" if scale != 1 else "")
        found["method"] = ", ".join(_method(entry) for entry in _listed(config.get("method"))) or "eyas.FGFI"
    return found


def _method(entry: Any) -> str:
    """As ``eyas.FGFI (psi 0.5, weight auto)``."""
    if not isinstance(entry, Mapping):
        return str(entry)
    options = ", ".join(f"{name} {value}" for name, value in (entry.get("init_args") or {}).items())
    return str(entry.get("class_path")) + (f" ({options})" if options else "")


def _scores(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The metrics of the last evaluation, of the best one, and of the teacher."""
    found = [line for line in lines if line["kind"] == "val"]
    rows = {}
    if found:
        rows[f"last weights, epoch {found[-1]['epoch']}"] = _metrics(found[-1])
        defined = [line for line in found if _primary(line) is not None]
        if defined:
            best = max(defined, key=lambda line: _primary(line) or 0.0)
            rows[f"best weights, epoch {best['epoch']}"] = _metrics(best)
    taught = [line for line in lines if line["kind"] == "teacher"]
    return rows | ({"teacher's score": _metrics(taught[-1])} if taught else {})


def _primary(line: Mapping[str, Any]) -> float | None:
    value: float | None = next(iter(line["summary"].values()))
    return value


def _metrics(line: Mapping[str, Any]) -> str:
    shown = list(nulls_as_nan(line["summary"]).items())[:SHOWN]
    return ", ".join(f"{metric_title(name)} {'-' if value != value else f'{value:.3f}'}" for name, value in shown)


def _input(resize: Resize) -> str:
    """The resize in words."""
    if resize.height is not None:
        return f"{resize.height} x {resize.width} (height x width)"
    sides = {"shorter side": resize.shorter, "longer side": resize.longer}
    return ", ".join(f"{name} {side}" for name, side in sides.items() if side is not None) or "the image's own size"


def _listed(methods: Any) -> list[Any]:
    return methods if isinstance(methods, list) else [] if methods is None else [methods]


def _cell(text: str) -> str:
    """Text for a cell of a table: on one line, without the characters that end it."""
    return " ".join(text.replace("|", "\\|").split())
