"""Holds out images of one split for evaluation, where a data set has no validation split."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import replace
from functools import partial
from pathlib import Path

from eyas.data.formats.checks import checked
from eyas.data.formats.records import DataSource
from eyas.data.images import content_digests
from eyas.data.options import SplitOptions
from eyas.tools.digests import MANY
from eyas.tools.progress import Progress
from eyas.types import EyasError


def held_out(whole: DataSource, name: str, options: SplitOptions) -> tuple[DataSource, DataSource]:
    """The part of a split to train on, and the part to evaluate on.

    The choice depends on the bytes of the image files and on ``options.val_seed`` alone, not on names, order or
    machine, and copies of one image stay together. The fraction is held out of the images with objects and of those
    without, so that both parts have objects where two images have some.

    Args:
        whole: the split, not checked yet.
        name: what the data set calls it.
        options: fraction and seed, and what the parts are called.

    Raises:
        EyasError: there are fewer than two different images.
    """
    if not whole.records:
        checked(whole)  # which says that it has no images
    digests = _digests(whole)
    full = {digests[record.path] for record in whole.records if len(record.boxes)}
    empty = set(digests.values()) - full
    if len(full | empty) < 2:
        raise EyasError(
            f"{whole.root}: the split {name} has no two different images, so none can be held out for evaluation; "
            "add images, or name a split by --dataset.val_split"
        )
    wanted = options.val_fraction
    counts = {"full": min(max(1, round(wanted * len(full))), len(full) - 1), "empty": round(wanted * len(empty))}
    if counts["full"] < 1:  # at most one image has objects: it is trained on
        counts = {"full": 0, "empty": min(max(1, counts["empty"]), len(empty) - (not full))}
    chosen = _first(full, counts["full"], options.val_seed) | _first(empty, counts["empty"], options.val_seed)
    train = tuple(record for record in whole.records if digests[record.path] not in chosen)
    val = tuple(record for record in whole.records if digests[record.path] in chosen)
    part = f"{len(val)} of the {len(whole.records)} images of {name} {'is' if len(val) == 1 else 'are'} held out"
    chosen_by = f"--dataset.val_fraction {wanted:g}, --dataset.val_seed {options.val_seed}"
    warning = (
        f"{whole.root} has no split {options.val_split}: {part} for evaluation, the same in every run ({chosen_by}); "
        "--dataset.val_split names a split of your own"
    )
    return (
        checked(replace(whole, split=options.train_split, records=train)),
        checked(replace(whole, split=options.val_split, records=val, problems=(), warnings=(warning,))),
    )


def _digests(source: DataSource) -> dict[Path, bytes]:
    """Image file -> digest of its bytes, with a bar where there are many."""
    paths = [record.path for record in source.records]
    with Progress(quiet=len(paths) < MANY) as progress:
        advance = partial(progress.advance, progress.task("hold out", len(paths)))
        digests = content_digests(source.records, source.root, advance, same_elsewhere=True)
        return dict(zip(paths, digests, strict=True))


def _first(digests: Set[bytes], count: int, seed: int) -> set[bytes]:
    """The first digests in an order that only the seed decides: images that are added later do not change it."""
    ordered = sorted(digests, key=lambda digest: hashlib.sha256(f"{seed} ".encode() + digest).digest())
    return set(ordered[:count])
