"""The arms of a comparison: recipes laid over one another, and the options that result.

A layer is the name of a recipe that comes with Eyas, a YAML file, or a mapping of options, nested or dotted. Later
layers override earlier ones; the methods of one arm's layers add up.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from jsonargparse.typing import register_type

from eyas.runs.recipes import shipped_recipes
from eyas.tools.text_files import parse_yaml, read_yaml_mapping
from eyas.types import EyasError

BASELINE = "baseline"
"""The arm without a method, which is always trained."""
FORMER_BASELINE = "plain"
"""Name of the baseline in the configs and run folders of earlier versions, which are still read."""
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")
SCHEDULE = re.compile(r"(.+)-e([1-9]\d{0,8})")
"""Name of an arm on a schedule of its own."""
METHOD_NAME = re.compile(r"[^\W\d]\w*(:\w+)?")
"""A method's short name, with the family of its published constants or without."""
GROUPS = ("dataset", "optim", "run", "resize", "augment")
"""Options that are merged name by name; every other one is replaced whole, as on the command line."""
OF_COMPARISON = {"data": "data", "teacher": "teacher", "out": "out", "run.seed": "seeds"}
"""Options that an arm cannot have of its own, since they are the comparison's -> its option."""
MOST_LAYERS = 100
"""Layers of one arm, recipes of recipes included."""


class ArmOptions:
    """One layer or a list of layers, as YAML has them.

    A type of its own, so that the parser leaves the classes named in it alone until the arm is trained.

    Args:
        value: a recipe's name or file, a mapping of options, a method or its short name, a list of these, or None.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def parse(cls, value: Any) -> ArmOptions:
        """Make one from a value of a YAML file, or from YAML given on the command line, else ValueError."""
        if isinstance(value, ArmOptions):
            return value
        try:
            return cls(parse_yaml(value, "an arm") if isinstance(value, str) else value)
        except EyasError as error:
            raise ValueError(str(error)) from error


register_type(ArmOptions, serializer=lambda layers: layers.value, deserializer=ArmOptions.parse)


def resolve_arms(student: ArmOptions, arms: Mapping[str, ArmOptions]) -> dict[str, dict[str, Any]]:
    """Arm name to all its options; the baseline first, whether it is named or not.

    Raises:
        EyasError: a name that cannot be a folder's, a recipe that is missing, an option that does not fit.
    """
    if {BASELINE, FORMER_BASELINE} <= arms.keys():
        raise EyasError(f"arms {BASELINE} and {FORMER_BASELINE}: both name the student without a method; keep one")
    named = {current_name(name): layers for name, layers in arms.items()}
    resolved = {}
    for name, layers in {BASELINE: ArmOptions(None), **named}.items():
        if not NAME.fullmatch(name):
            raise EyasError(f"arm {name!r}: name it by at most 100 letters, digits, . + - _: its runs are folders")
        if name != BASELINE and split_schedule(name)[0] == BASELINE:
            raise EyasError(f"arm {name}: so the baseline of other schedules is called; give the arm another name")
        options: dict[str, Any] = {}
        try:
            given = (*as_list(student.value), *as_list(layers.value))
            _refuse_options_of_comparison(given)
            mappings = list(islice(chain.from_iterable(map(_expand, given)), MOST_LAYERS + 1))
            if len(mappings) > MOST_LAYERS:
                raise EyasError(f"more than {MOST_LAYERS} recipes and mappings over one another; write them as one")
            for mapping in mappings:
                _add(options, mapping)
        except EyasError as error:
            raise EyasError(f"arm {name}: {error}") from error
        if name == BASELINE and "method" in options:
            raise EyasError(f"arm {BASELINE}: it is the student without a method; give the method to an arm of its own")
        resolved[name] = options
    return resolved


def _refuse_options_of_comparison(layers: Sequence[Any]) -> None:
    """Raises EyasError for an option of `OF_COMPARISON` in a layer. Recipes may have them: they are of single runs."""
    for layer in layers:
        if not isinstance(layer, Mapping) or "class_path" in layer:
            continue
        run = layer.get("run")
        own = {*layer, *(f"run.{name}" for name in (run if isinstance(run, Mapping) else ()))}
        if found := next((name for name in OF_COMPARISON if name in own), None):
            raise EyasError(
                f"{found}: all arms have that of the comparison, which its option --{OF_COMPARISON[found]} gives; "
                "take it out here, and compare what differs in it in another --out"
            )


def current_name(arm: str) -> str:
    """The name of an arm, `BASELINE` also where an earlier version called it plain."""
    return BASELINE if arm == FORMER_BASELINE else arm


def at_schedule(arm: str, epochs: int) -> str:
    """The name of an arm on a schedule of so many epochs, as ``fgfi-e40``."""
    return f"{arm}-e{epochs}"


def split_schedule(name: str) -> tuple[str, int | None]:
    """The arm and the epochs of such a name; None for an arm that has no schedule in its name."""
    found = SCHEDULE.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def baseline_of(name: str, names: Collection[str]) -> str:
    """Among ``names`` the baseline that an arm is compared with: that of its schedule where there is one."""
    return on_same_schedule(BASELINE, name, names)


def on_same_schedule(arm: str, other: str, names: Collection[str]) -> str:
    """An arm on the schedule of another one, if that is among ``names``; else the arm as it is."""
    _, epochs = split_schedule(other)
    own = arm if epochs is None else at_schedule(arm, epochs)
    return own if own in names else arm


def _expand(layer: Any, within: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """The mappings of one layer: those of the recipes it builds on, then its own. One word alone names a method, as
    does one with the family of its published constants.

    ``within`` names the recipes that led to it.
    """
    if isinstance(layer, str) and METHOD_NAME.fullmatch(layer) and not _is_recipe(layer):
        yield {"method": layer}
    elif isinstance(layer, str):
        if layer in within:
            raise EyasError(f"{layer}: builds on itself ({' -> '.join((*within, layer))}); take its config: out")
        yield from _expand(_read(layer), (*within, layer))
    elif not isinstance(layer, Mapping):
        raise EyasError(f"{layer!r} is neither a recipe nor a mapping of options")
    elif "class_path" in layer:
        yield {"method": dict(layer)}
    else:
        for below in as_list(layer.get("config")):
            yield from _expand(below, within)
        yield {key: value for key, value in layer.items() if key != "config"}


def _add(options: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay one mapping over the options, in place: methods add up, dotted names override."""
    for key, value in copy.deepcopy(dict(layer)).items():
        if not isinstance(key, str):
            raise EyasError(f"{key!r:.60} is not the name of an option")
        if key == "method":
            methods = [*as_list(options.get("method")), *as_list(value)]
            options["method"] = methods[0] if len(methods) == 1 else methods
        elif "." in key:
            _override(options, key, value)
        elif key in GROUPS and isinstance(value, dict):
            if not isinstance(options.get(key), dict):
                options[key] = {}
            _add(options[key], value)
        else:
            options[key] = value


def _override(options: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted option; a number in the name is an index into a list, ``method.psi`` an argument of the method."""
    *path, last = _whole_name(name)
    if path[0] == "method" and "method" in options:
        options["method"] = _as_classes(options["method"])
    place: Any = options
    for step in path:
        if isinstance(place, list):
            place = place[_index(place, step, name)]
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
    if isinstance(place, list):
        place[_index(place, last, name)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise EyasError(f"{name}: {place!r} has no options of its own")


def _whole_name(name: str) -> list[str]:
    """The parts of a dotted option; where it leaves out that it is an argument of a method, with ``init_args``."""
    parts = name.split(".")
    own = 2 if parts[0] == "method" and parts[1].isdigit() else 1
    if parts[0] == "method" and own < len(parts) and parts[own] not in ("class_path", "init_args"):
        parts.insert(own, "init_args")
    return parts


def _as_classes(methods: Any) -> Any:
    """Methods given by name, as mappings that can have arguments."""
    if isinstance(methods, list):
        return [_as_classes(method) for method in methods]
    return {"class_path": methods} if isinstance(methods, str) else methods


def _index(entries: Sequence[Any], step: str, name: str) -> int:
    if not step.isdigit() or int(step) >= len(entries):
        raise EyasError(f"{name}: there are {len(entries)} methods; say which by 0 to {len(entries) - 1} before {step}")
    return int(step)


def _is_recipe(name: str) -> bool:
    return name in shipped_recipes() or Path(name).is_file()


def _read(name: str) -> dict[str, Any]:
    path = shipped_recipes().get(name, Path(name))
    if not path.is_file():
        known = ", ".join(shipped_recipes())
        raise EyasError(f"{name}: no such recipe or YAML file; the recipes are {known}")
    return read_yaml_mapping(path)


def as_list(value: Any) -> list[Any]:
    """A list of what is one layer or method, several, or none."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]
