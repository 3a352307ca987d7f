"""A detector of other classes on your data: classes are matched by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eyas.detectors.prediction_checks import as_predictions
from eyas.types import Detector, EyasError, Level, Prediction, Target


def as_names(classes: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    """Class names as a tuple, in label order, also of a mapping from label to name.

    Raises EyasError for a text, whose letters would be the names, for a set, which has no order, for labels that do not
    count from 0, and for what is no text.
    """
    if isinstance(classes, str):
        raise EyasError(f"classes are a list of names, in label order; for one class write [{classes!r}]")
    if isinstance(classes, Mapping):
        if set(classes) != set(range(len(classes))):
            raise EyasError(f"classes have the labels {', '.join(map(str, classes))}; they must count from 0")
        classes = [classes[label] for label in range(len(classes))]
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise EyasError(f"classes are a list of names, in label order; got {classes!r:.80}")
    return tuple(classes)


class MatchedByName:
    """A detector that answers in another class list: its labels are translated by name, its other classes dropped.

    Satisfies `eyas.types.Detector`; `network` and `levels` are the detector's own.
    """

    def __init__(self, detector: Detector, classes: Sequence[str]) -> None:
        self.detector, self.classes = detector, tuple(classes)
        label_of = {name: label for label, name in enumerate(self.classes)}
        self._labels = torch.tensor([label_of.get(name, -1) for name in detector.classes])

    @property
    def network(self) -> nn.Module:
        return self.detector.network

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.detector.levels

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Always raises EyasError: the losses are in the detector's own classes."""
        raise EyasError("a detector that is matched to other classes by name cannot be trained")

    def predict(self, images: Tensor) -> list[Prediction]:
        """The detector's detections of the classes that both lists have."""
        found = as_predictions(self.detector.predict(images), len(images), self.detector.classes, "the detector")
        return [self._translated(one) for one in found]

    def _translated(self, found: Prediction) -> Prediction:
        labels = self._labels.to(found["labels"].device)[found["labels"]]
        kept = labels >= 0
        return Prediction(boxes=found["boxes"][kept], scores=found["scores"][kept], labels=labels[kept])


def shared_classes(own: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """The names of ``classes``, in their order, that ``own`` has too."""
    return tuple(name for name in classes if name in own)


def match_by_name(detector: Detector, classes: Sequence[str], name: str) -> Detector:
    """The detector, answering in ``classes``; itself where these are its own.

    Raises:
        EyasError: no class has one of those names, or there are none; ``name`` is the detector's, for the message.
    """
    if tuple(detector.classes) == tuple(classes):
        return detector
    if not detector.classes:
        raise EyasError(f"{name} is a source of features, without classes: it detects nothing, and is a teacher only")
    if not shared_classes(detector.classes, classes):
        raise EyasError(
            f"{name} and the data share no class name:\n  detector: {listed(detector.classes)}\n"
            f"  data:     {listed(classes)}\nGive the data's names in the detector's words with the classes option"
        )
    return MatchedByName(detector, classes)


def warn_renamed(source: str, own: Sequence[str], classes: Sequence[str]) -> None:
    """Warn where weights were trained for as many classes of other names, or in another order: they are kept."""
    if len(own) == len(classes) and list(own) != list(classes):
        warnings.warn(
            f"{source} has as many classes as requested but other names, so its head is kept and they are renamed: "
            f"{own[0]} is now {classes[0]}, and so on",
            stacklevel=5,
        )


def listed(classes: Sequence[str], most: int = 12) -> str:
    """The names, the first of them where there are many."""
    names = list(classes)
    more = f", ... ({len(names)})" if len(names) > most else ""
    return ", ".join(names[:most]) + more
