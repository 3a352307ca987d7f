"""The command line. Reading `COMMANDS` is reading the product."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveInt

from eyas.commands.benchmark import benchmark
from eyas.commands.cache import cache
from eyas.commands.cluster import Nodes, slurm_environment
from eyas.commands.compare import compare
from eyas.commands.data import data
from eyas.commands.demo import demo
from eyas.commands.distill import distill
from eyas.commands.doctor import doctor
from eyas.commands.evaluate import evaluate
from eyas.commands.export import export
from eyas.commands.inspect import inspect
from eyas.commands.launch import launch
from eyas.commands.parsing import command_parser, run_config, summary
from eyas.commands.predict import predict
from eyas.commands.recipes import recipes
from eyas.commands.report import report
from eyas.commands.train import train
from eyas.tools.signals import Stopped, stopped_by_sigterm
from eyas.types import EyasError

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "data": data,
    "train": train,
    "distill": distill,
    "cache": cache,
    "compare": compare,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "inspect": inspect,
    "benchmark": benchmark,
    "report": report,
    "recipes": recipes,
    "doctor": doctor,
}
POSITIONAL = ("data", "evaluate", "predict", "export", "inspect")
"""Commands whose required arguments are given by place."""
LAUNCHED = ("train", "distill", "cache")
"""Commands that run on several devices."""

PLACES = ("nodes", "node_rank", "main_address")
"""Options that say where a process runs; not kept with the run."""

STORY = """Eyas distils a large, accurate object detector into a small, fast one.

  eyas demo                                                      see it work on bundled data, in minutes
  eyas data cells/                                               what is in a data set, and what is wrong with it
  eyas train --data cells/ --model retinanet --backbone resnet50 --out runs/teacher
  eyas distill --data cells/ --teacher runs/teacher --model retinanet --backbone resnet18 --out runs/student
  eyas distill ... --cache cache/                                the teacher runs once, not in every step
  eyas compare --config compare.yaml                             several methods, several seeds, one table
  eyas evaluate runs/student                                     its score, per class, beside its teacher
  eyas predict runs/student photos/ --out found/                 boxes as JSON and drawn
  eyas export runs/student                                       student.onnx, compared with PyTorch
  eyas inspect runs/teacher                                      do its features bear out the mask, on your data
  eyas benchmark --config student.yaml --data cells/             what the time of a step goes to
  eyas report runs/compare                                       one page: curves, errors, cost, best and worst images
  eyas doctor                                                    what is installed, and whether a training would work

Every option can stand in a YAML file given by --config; --print_config prints the resolved one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 from `doctor`, 2 for bad input, 130 on Ctrl-C, 143 on SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append("")  # methods and teachers of your own are imported from the folder you are in
    try:
        with stopped_by_sigterm():
            parser, commands = build_parser()
            config = parser.parse_args(arguments)
            name = config.subcommand
            return _run(name, config[name], commands[name], arguments)
    except (EyasError, ArgumentError) as error:
        print(f"eyas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        resume = "a training goes on from its checkpoint with --run.resume true, demo and compare when called again"
        print(f"eyas: {str(stop) or f'stopped; {resume}'}", file=sys.stderr)
        return stop.status if isinstance(stop, Stopped) else 130


def build_parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser and those of its commands, built from the signatures and docstrings of `COMMANDS`."""
    parser = ArgumentParser(prog="eyas", description=STORY, formatter_class=_KeepLines, exit_on_error=False)
    subcommands = parser.add_subcommands(metavar="COMMAND")
    commands = {}
    for name, function in COMMANDS.items():
        own = OWN_PARSERS.get(name)
        command = own() if own is not None else command_parser(function, positional=name in POSITIONAL)
        if name in LAUNCHED:
            _add_places(command)
        subcommands.add_subcommand(name, command, help=summary(function))
        commands[name] = command
    return parser, commands


def recipes_parser() -> ArgumentParser:
    """Both arguments of `recipes` are optional and given by place, which a signature cannot say."""
    parser = command_parser(recipes, skip={"action", "name"})
    parser.add_argument("action", nargs="?", default="list", choices=["list", "copy"], help="What to do.")
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="The recipe to copy, as listed.")
    return parser


def report_parser() -> ArgumentParser:
    """The runs of `report` are several and given by place, which a signature cannot say."""
    parser = command_parser(report, skip={"runs"})
    text = "Run folders, or folders of run folders as compare and demo make."
    parser.add_argument("runs", nargs="+", type=Path, help=text)
    return parser


OWN_PARSERS = {"recipes": recipes_parser, "report": report_parser}
"""Commands whose arguments a signature does not describe."""


def _add_places(command: ArgumentParser) -> None:
    text = "processes to start on this machine, one for each device"
    command.add_argument("--devices", type=PositiveInt, default=1, help=text)
    command.add_argument("--nodes", type=PositiveInt, default=1, help="machines; the command is given on each of them")
    command.add_argument("--node_rank", type=int, default=0, help="which of them this is, from 0")
    text = "HOST:PORT of the machine of rank 0, where there are several"
    command.add_argument("--main_address", type=str | None, default=None, help=text)


class _KeepLines(DefaultHelpFormatter):
    """Help whose description keeps its line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text


def _run(name: str, config: Namespace, parser: ArgumentParser, arguments: Sequence[str]) -> int:
    if name in LAUNCHED:
        os.environ.update(slurm_environment(os.environ))
        nodes = Nodes(*(config.pop(option) for option in PLACES))
        if config.devices * nodes.number > 1 and "LOCAL_RANK" not in os.environ:
            return launch([sys.executable, "-m", "eyas", *arguments], config.devices, nodes)
    result = run_config(COMMANDS[name], parser, config)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
