"""Short names that the command line takes for options and methods, and names that other tools have for them."""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "fgfi": "eyas.FGFI",
    "fitnets": "eyas.FitNets",
    "box_mask": "eyas.BoxMask",
    "vanilla": "eyas.Vanilla",
    "chen2017": "eyas.Chen2017",
    "roi_mimic": "eyas.RoIMimic",
    "detr_distill": "eyas.DETRDistill",
    "d3etr": "eyas.D3ETR",
    "kd_detr": "eyas.KDDETR",
    "target_aware": "eyas.TargetAware",
    "pkd": "eyas.PKD",
    "cwd": "eyas.CWD",
    "cosine": "eyas.Cosine",
    "self_similarity": "eyas.SelfSimilarity",
    "ld": "eyas.LD",
    "mgd": "eyas.MGD",
    "defeat": "eyas.DeFeat",
    "fgd": "eyas.FGD",
    "bckd": "eyas.BCKD",
    "crosskd": "eyas.CrossKD",
    "frs": "eyas.FRS",
    "query_ld": "eyas.QueryLD",
}
"""Short name of a method -> its class; here because the command line needs them without torch."""

SHORT: Mapping[str, tuple[str, ...]] = {
    "epochs": ("run.epochs",),
    "lr": ("optim.lr",),
    "seed": ("run.seed",),
    "batch_size": ("dataset.batch_size",),
    "imgsz": ("dataset.resize", "resize"),
    "workers": ("dataset.workers",),
    "device": ("run.device",),
}
"""Short name of an option -> its full names, of which a command has at most one. On the command line only: a YAML file
has the full names."""

MEANINGS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("conf", "conf_thres", "conf_threshold", "score", "score_threshold"), ("threshold",)),
    **dict.fromkeys(("learning_rate", "lr0", "base_lr"), ("optim.lr",)),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs"), ("run.epochs",)),
    **dict.fromkeys(("batch", "bs", "batchsize"), ("dataset.batch_size", "batch_size")),
    **dict.fromkeys(("num_workers", "nworkers", "jobs"), ("dataset.workers", "workers")),
    **dict.fromkeys(
        ("img", "img_size", "image_size", "input_size", "size", "resolution"), ("dataset.resize", "resize")
    ),
    **dict.fromkeys(("gpu", "gpus", "cuda", "num_gpus"), ("devices", "run.device", "device")),
    **dict.fromkeys(("amp", "half", "fp16", "bf16"), ("run.precision",)),
    **dict.fromkeys(("output", "output_dir", "save_dir", "outdir", "name", "project_dir"), ("out",)),
    **dict.fromkeys(("pretrained", "checkpoint", "ckpt", "init"), ("weights",)),
    **dict.fromkeys(("arch", "architecture", "network", "net"), ("model",)),
    **dict.fromkeys(("data_dir", "root", "dataset_dir", "data_path"), ("data",)),
    **dict.fromkeys(("opt", "solver"), ("optim.optimizer",)),
    **dict.fromkeys(("wd", "decay"), ("optim.weight_decay",)),
    **dict.fromkeys(("loss", "losses", "kd", "distiller"), ("method",)),
    **dict.fromkeys(("names", "labels"), ("dataset.classes", "classes")),
    **dict.fromkeys(("output_file", "json", "save_json"), ("json_file",)),
}
"""Name that other tools have for an option -> its names here, for the answer to an unknown option."""


def method_path(name: str) -> str | None:
    """The import path of a method by its short name or its class's, however written; None where no method has it."""
    wanted = _letters(name)
    return next((path for short, path in METHODS.items() if wanted in (_letters(short), _letters(path))), None)


def _letters(name: str) -> str:
    return name.rpartition(".")[2].replace("_", "").replace("-", "").lower()
