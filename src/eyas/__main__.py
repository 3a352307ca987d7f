"""The command line. Reading `COMMANDS` is reading the product.

A parser is built for the one command that is asked, and nothing here imports torch: help, and errors in options, answer
at once.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m eyas` puts the working folder there, where a file may be called queue.py

try:
    import os
    from collections.abc import Callable, Sequence
    from contextlib import nullcontext
    from difflib import get_close_matches
    from functools import partial
    from importlib import import_module, metadata
    from pathlib import Path
    from typing import Any

    from jsonargparse import ArgumentParser, Namespace
    from jsonargparse.typing import PositiveInt

    from eyas.commands.config_files import code_is_asked_for
    from eyas.commands.failures import explained, lost_process
    from eyas.commands.launch import LOST_PROCESS, Nodes, check_environment, launch, slurm_environment
    from eyas.commands.parsing import command_parser, parse_options, run_config, summary
    from eyas.runs.config import resume_note
    from eyas.runs.recipes import allow_code
    from eyas.tools.children import end_with_parent
    from eyas.tools.output import ended_by_reader, outlasting_reader, prepare_streams, say_error
    from eyas.tools.own_modules import modules_of_command
    from eyas.tools.signals import Stopped, stopped_by_termination
    from eyas.types import EyasError
except KeyboardInterrupt:  # Ctrl-C before `main` can say more
    sys.exit(130)

COMMANDS = (
    *("demo", "data", "methods", "train", "distill", "cache", "compare", "evaluate", "predict", "export", "inspect"),
    *("benchmark", "report", "recipes", "doctor"),
)
"""Each is a function of the module of its name in `eyas.commands`."""
POSITIONAL = ("data", "evaluate", "predict", "export", "inspect")
"""Commands whose required arguments are given by place."""
LAUNCHED = ("train", "distill", "cache")
"""Commands that run on several devices."""
WRITING = (*LAUNCHED, "demo", "compare", "predict", "export", "report")
"""Commands that write files: they go on to their end when nobody reads what they print."""

PLACES = ("nodes", "node_rank", "main_address")
"""Options that say where a process runs; not kept with the run."""

STORY = """usage: eyas COMMAND [--OPTION VALUE ...]

Eyas distils a large, accurate object detector into a small, fast one.

  eyas demo                                                      see it work on bundled data, in minutes
  eyas data cells/                                               what is in a data set, and what is wrong with it
  eyas methods                                                   what can be imitated, and what each method needs
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

Every option can stand in a YAML file given by --config; --print_config prints the resolved one.
`eyas COMMAND --help` lists the options of a command; `eyas --version` names the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 from `doctor`, 2 for bad input or too little memory, and 130 on
    Ctrl-C, 143 on SIGTERM, 129 on SIGHUP.

    Where the reader of the output has gone, as in `eyas --help | head -3`, SystemExit(1) ends it, unless the command
    is one of `WRITING`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    launched = False
    try:
        prepare_streams()
        launched = end_with_parent()  # which starts a thread, and may find none left
        with (
            stopped_by_termination(),
            ended_by_reader(),
            allow_code(code_is_asked_for(arguments)),
            modules_of_command(),
        ):
            if arguments and arguments[0] in ABOUT:
                print(ABOUT[arguments[0]]())
                return 0
            return _run(arguments, *parse(arguments))
    except Exception as error:
        if launched and lost_process(error):
            return LOST_PROCESS  # the launcher knows which process that is, and says it
        if (message := explained(error)) is None:
            raise
        say_error(message)
        return 2
    except KeyboardInterrupt as stop:
        resume = "a training goes on from its checkpoint with --run.resume true, demo and compare when called again"
        say_error(str(stop) or f"stopped; {resume}")
        return stop.status if isinstance(stop, Stopped) else 130


def version() -> str:
    """The version of Eyas."""
    return f"eyas {metadata.version('eyas')}"


def overview() -> str:
    """The help of `eyas` itself: the story of a student, and every command with the first line of its docstring."""
    return "\n".join([STORY, *(f"  {name:<10} {summary(command(name))}" for name in COMMANDS)])


def command(name: str) -> Callable[..., Any]:
    """The function of a command."""
    function: Callable[..., Any] = getattr(import_module(f"eyas.commands.{name}"), name)
    return function


def parse(arguments: Sequence[str]) -> tuple[str, ArgumentParser, Namespace]:
    """The command that a command line asks for, its parser and its config.

    Raises:
        EyasError: no such command, or an option that is not one of its.
    """
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        said = f"there is no command {name}" if name else "give a COMMAND"
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise EyasError(f"{said}; {hint}{'' if close else ', and eyas --help tells what each does'}")
    return name, *parse_options(partial(parser_of, name), arguments[1:])


def parser_of(name: str, methods: bool) -> ArgumentParser:
    """The parser of a command, with the methods imported or not; see `parse_options`."""
    positional, add = name in POSITIONAL or name in OWN_ARGUMENTS, OWN_ARGUMENTS.get(name, {})
    parser = command_parser(command(name), prog=f"eyas {name}", positional=positional, skip=add.keys(), methods=methods)
    for argument, options in add.items():
        parser.add_argument(argument, **options)
        given = {"?": "[{}]", "+": "{} ..."}[options["nargs"]].format(argument.upper())
        parser.usage = str(parser.usage).replace(" [--OPTION", f" {given} [--OPTION")
    if name in LAUNCHED:
        _add_places(parser)
    return parser


ABOUT: dict[str, Callable[[], str]] = {"-h": overview, "--help": overview, "help": overview, "--version": version}
"""Arguments that are not a command -> what they print."""

OWN_ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "recipes": {
        "action": {"nargs": "?", "default": "list", "choices": ["list", "copy"], "help": "What to do."},
        "name": {"nargs": "?", "type": str | None, "default": None, "help": "The recipe to copy, as listed."},
    },
    "report": {
        "runs": {"nargs": "+", "type": Path, "help": "Run folders, or folders of run folders as compare and demo make."}
    },
}
"""Command -> arguments given by place that a signature cannot describe: optional ones, or several."""


def _add_places(parser: ArgumentParser) -> None:
    text = "processes to start on this machine, one for each device"
    parser.add_argument("--devices", type=PositiveInt, default=1, help=text)
    parser.add_argument("--nodes", type=PositiveInt, default=1, help="machines; the command is given on each of them")
    parser.add_argument("--node_rank", type=int, default=0, help="which of them this is, from 0")
    text = "HOST:PORT of the machine of rank 0, where there are several"
    parser.add_argument("--main_address", type=str | None, default=None, help=text)


def _run(arguments: Sequence[str], name: str, parser: ArgumentParser, config: Namespace) -> int:
    check_environment(os.environ)
    if name in LAUNCHED:
        os.environ.update(slurm_environment(os.environ))
        nodes = Nodes(*(config.pop(option) for option in PLACES))
        if config.devices * nodes.number > 1 and "LOCAL_RANK" not in os.environ:
            with resume_note(config.get("out")):
                return launch([sys.executable, "-P", "-m", "eyas", *arguments], config.devices, nodes)
        if "LOCAL_RANK" in os.environ:  # the run records the processes of all machines
            config.devices = int(os.environ.get("WORLD_SIZE", config.devices))
    with outlasting_reader() if name in WRITING else nullcontext():
        result = run_config(command(name), parser, config)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
