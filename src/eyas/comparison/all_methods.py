"""The arms of ``--arms all`` and of lists of methods, and the record of those that a comparison was begun with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eyas.comparison.arms import METHOD_NAME, ArmOptions, as_list
from eyas.tools.files import write_json
from eyas.tools.text_files import read_json
from eyas.types import EyasError

ALL = "all"
"""The arm that stands for one of each method that applies to the pair."""
FILE = "methods.json"


@dataclass(frozen=True)
class Chosen:
    """The methods of a comparison of all.

    Attributes:
        methods: short names of those that apply: its arms.
        left_out: short name -> why the method does not apply.
    """

    methods: tuple[str, ...]
    left_out: Mapping[str, str]

    def write(self, out: Path) -> None:
        """Record them in the comparison's folder, so that it stays what it is when there are more methods."""
        write_json(out / FILE, asdict(self))

    def describe(self, known: Collection[str]) -> Iterator[str]:
        """Lines: the arms, the methods that were left out with the reasons, and the ``known`` ones that are newer."""
        yield f"methods   {len(self.methods)} apply: {', '.join(self.methods)}"
        for name, reason in self.left_out.items():
            yield f"left out  {name}: {' '.join(reason.split())}"
        if new := [name for name in known if name not in self.methods and name not in self.left_out]:
            yield f"new       {', '.join(new)}: not among the arms of this comparison; add them by --arms all,{new[0]}"


def read_chosen(out: Path) -> Chosen | None:
    """The methods that a comparison was begun with. Raises EyasError for a damaged file."""
    file = out / FILE
    if not file.is_file():
        return None
    content = read_json(file)
    methods, left_out = content.get("methods"), content.get("left_out")
    if not isinstance(methods, list) or not isinstance(left_out, dict):
        raise EyasError(f"{file}: is damaged; remove it, and the methods are tried again")
    return Chosen(tuple(map(str, methods)), {name: str(reason) for name, reason in left_out.items()})


def arms_of(names: Sequence[str]) -> dict[str, ArmOptions]:
    """An arm for each name of a method, with its defaults; ``fgfi:retinanet`` is called ``fgfi_retinanet``.

    Raises:
        EyasError: something else than `ALL` or a method's name is among them.
    """
    if odd := [name for name in names if not METHOD_NAME.fullmatch(name)]:
        raise EyasError(
            f"--arms {odd[0]}: a list has short names of methods, or all; arms of recipes or options are a mapping, "
            "such as '{fgfi: demo/fgfi}'"
        )
    return {name.replace(":", "_"): ArmOptions(None if name == ALL else name) for name in names}


def with_all(arms: Mapping[str, ArmOptions], chosen: Chosen) -> dict[str, ArmOptions]:
    """The arms with one for each chosen method instead of `ALL`, whose layers each of them has; others of the same name
    override these."""
    layers = as_list(arms[ALL].value)
    own = {name: ArmOptions([name, *layers]) for name in chosen.methods}
    return {**own, **{name: options for name, options in arms.items() if name != ALL}}
