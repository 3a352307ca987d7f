"""Which classes of a data set are learned, and what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eyas.data.formats import fields
from eyas.types import EyasError

Choice = Sequence[str] | Mapping[str, Sequence[str]]
"""Class names in label order; or each name with the classes of the data set that it takes together."""


@dataclass(frozen=True)
class Classes:
    """The classes of a detector, and the label of each class of a data set.

    Attributes:
        names: in label order.
        labels: class of the data set -> label.
        refuses: whether another class is an error. Otherwise its objects are background, and counted in ``left_out``.
        left_out: class -> number of its objects, so far.
    """

    names: tuple[str, ...]
    labels: Mapping[str, int]
    refuses: bool = True
    left_out: Counter[str] = field(default_factory=Counter)

    def label(self, name: str, where: str) -> int | None:
        """The label of a class; None where it is left out. Raises `EyasError` with ``where`` and the known classes."""
        if name in self.labels:
            return self.labels[name]
        if self.refuses:
            unknown = f"{where}: unknown class {fields.shown(name)}; the classes are {', '.join(self.names)}"
            raise EyasError(f"{unknown}. Correct the annotation, or name every class by {fields.CLASSES_OPTION}.")
        self.left_out[name] += 1
        return None

    def warning(self, split: str) -> tuple[str, ...]:
        """A sentence about the objects that were left out; nothing where there were none."""
        if not self.left_out:
            return ()
        counts = ", ".join(f"{name} ({count})" for name, count in self.left_out.most_common(20))
        return (f"split {split}: objects of classes that are not among the chosen ones are background: {counts}",)


def known(classes: Sequence[str] | Classes) -> Classes:
    """These classes and no others."""
    if isinstance(classes, Classes):
        return classes
    return Classes(tuple(classes), {name: label for label, name in enumerate(classes)})


def chosen(choice: Choice) -> Classes:
    """The classes that a user chose; the others are left out.

    Raises `EyasError` when there are none, or a class is there twice.
    """
    groups = dict(choice) if isinstance(choice, Mapping) else {name: [name] for name in choice}
    if any(isinstance(group, str) or not isinstance(group, Sequence) for group in groups.values()):
        raise EyasError(f"the classes are {fields.shown(choice)}; write a list for each name: {{vehicle: [car, van]}}")
    of_data = [name for group in groups.values() for name in group]
    if not of_data or len(groups) < len(choice) or len(set(of_data)) < len(of_data) or not all(groups.values()):
        written = "; ".join(f"{name}: {', '.join(group)}" for name, group in groups.items())
        given = written if isinstance(choice, Mapping) else ", ".join(choice)
        raise EyasError(f"the classes must be distinct and at least one, got: {given or 'none'}")
    labels = {name: label for label, group in enumerate(groups.values()) for name in group}
    return Classes(tuple(groups), labels, refuses=False)


def require_found(classes: Classes, objects: Counter[int], split: str) -> None:
    """Raises `EyasError` when others are left out and a chosen class has no object: its name may be misspelt."""
    without = [name for label, name in enumerate(classes.names) if not objects[label]]
    if classes.left_out and without:
        raise EyasError(
            f"no object of class {', '.join(without)} in split {split}, which has others: "
            f"{', '.join(classes.left_out)}; correct {fields.CLASSES_OPTION}"
        )
