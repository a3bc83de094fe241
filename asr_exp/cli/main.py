"""From the command line to a command, run once or as a sweep, and to an exit status.

Whatever happens ends in an exit status: 0 done, 1 a crash of ours or a failed cell of a sweep, 2 a mistake
the user can mend, 128 + signal after a signal. What takes time to import is imported where it is needed, so
that --help comes at once.
"""

import ctypes
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from asr_exp import __version__
from asr_exp.cli.arguments import commands, hydra_parser, is_bare, parse, run_of
from asr_exp.cli.run_command import OF_NAMES, Job
from asr_exp.core.errors import UserError
from asr_exp.core.exit_status import exit_rank, rank, say, status_of
from asr_exp.core.json_document import json_on_stdout
from asr_exp.core.plugin_errors import FULL

if TYPE_CHECKING:
    from asr_exp.config.hydra_internals import Hydra

M_ARENA_MAX = -8  # of malloc.h

# Commands of many runs: they take the overrides as they are, and compose each of the runs themselves.
OF_MANY_RUNS = ("table",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's own), once or as a sweep, and return the exit status.

    Whatever is wrong with it is printed as a sentence; no exception leaves but SystemExit, of a run that was
    asked to leave.
    """
    _set_environment()
    words = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        if "-h" in words or "--help" in words:
            print(_help_page(words), end="")
        elif "--version" in words:
            print(f"asr_exp {__version__}")
        else:
            options, command = parse(words)
            with json_on_stdout() if options.json else nullcontext():
                status = _run(options, command)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        # it happened before the command, on every rank alike: rank 0 tells of it
        return status_of(error, quiet=rank() > 0)


def _run(options: Namespace, command: str) -> int:
    """Run a command, once or as a sweep, or show what a flag asks for -> the exit status."""
    from asr_exp.config.groups import conf_folders
    from asr_exp.config.hydra_internals import hydra_at

    folders = conf_folders(options.config_dir)
    hydra = hydra_at(folders)
    shows = options.cfg or options.info or options.hydra_help
    with _hydra_errors_translated(folders):
        if options.shell_completion:
            hydra.shell_completion(config_name="config", overrides=options.overrides)
        elif command in OF_MANY_RUNS and not shows:
            return run_of(command)(options.overrides, options.config_dir)
        else:
            request = _read_overrides(hydra, options, folders)
            if shows:
                _show(hydra, options, request.overrides)
            elif request.multirun:
                return _sweep(folders, command, options, request)
            else:
                return hydra.run(
                    config_name="config",
                    task_function=Job(command, options.config_dir),
                    overrides=request.overrides,
                ).return_value.code
    return 0


def _set_environment() -> None:
    """Set what the libraries read from the environment when they are imported, glibc's malloc, and that
    standard output escapes what it cannot encode.
    """
    with suppress(
        AttributeError, ValueError
    ):  # a transcript that the terminal has no letters for ends no run
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.setdefault(FULL, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us; Hydra neither prints them nor exits
    # Threads that spin for long at each OpenMP barrier make a CPU run 10 times slower as soon as another
    # program wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # oneDNN, and torch once more, cache what they compile for each shape of a product: with their own bounds
    # of 1024 shapes, a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
    # Where the weights of a checkpoint are a pickle, transformers asks a service of the hub, in a thread, to
    # convert them: nobody wants that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # glibc's malloc: one heap for all threads; what each keeps of its own adds up to 50 MB
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _help_page(words: Sequence[str]) -> str:
    """The page that `--help` shows: on the first bare word, or else on the first key=value."""
    from asr_exp.cli import help

    topics = sorted((word for word in words if not word.startswith("-")), key=lambda word: not is_bare(word))
    plugins = [word.partition("=")[2].strip("[]") for word in words if word.startswith("plugins=")]
    modules = [name.strip() for one in plugins for name in one.split(",") if name.strip()]
    return help.page(next(iter(topics), None), commands(), modules)


@contextmanager
def _hydra_errors_translated(folders: list[Path]) -> Iterator[None]:
    """Turn an error of Hydra's into a UserError that names what was typed; others pass as they are."""
    from asr_exp.config import compose as configs

    try:
        yield
    except Exception as error:
        if (translated := configs.translate_error(error, folders)) is None:
            raise
        raise translated from error


@dataclass(frozen=True)
class _Request:
    """What the overrides of a command line ask for. overrides: as Hydra takes them; broken: the rows of
    experiments that cannot be composed, each with the reason.
    """

    overrides: list[str]
    multirun: bool
    broken: Mapping[str, str]


def _read_overrides(hydra: "Hydra", options: Namespace, folders: list[Path]) -> _Request:
    """Tell whether the overrides ask for a sweep, and check them. Raises UserError for one that is wrong."""
    from hydra.types import RunMode

    from asr_exp.config import compose as configs

    broken: dict[str, str] = {}
    overrides = configs.to_hydra_overrides(options.overrides)
    # Our own files ask for no sweep, so only what else is read is composed for it.
    others = len(folders) > 1 or any("hydra" in text for text in overrides)
    with warnings.catch_warnings(action="ignore"):  # of a search path that is not there: told below
        mode = hydra.get_mode(config_name="config", overrides=overrides) if others else None
    multirun = options.multirun or mode == RunMode.MULTIRUN
    shown = next((f"--{flag}" for flag in ("cfg", "info") if getattr(options, flag)), None)
    if options.multirun and shown:
        raise UserError(
            f"{shown} shows one config, and -m asks for several; leave out -m, and give each key one value."
        )
    if options.multirun and mode == RunMode.RUN and "hydra.mode=RUN" in overrides:
        raise UserError("-m and hydra.mode=RUN contradict each other; leave out one of them.")
    if multirun and not shown:
        options.overrides, broken = configs.expand_sweep(options.overrides, options.config_dir)
        for row, reason in broken.items():
            say(f"error: experiment={row}: ", reason)
        overrides = configs.to_hydra_overrides(options.overrides)
    if multirun and options.json:
        raise UserError("--json is of one run; drop it, or -m: a sweep's figures are in its cells.csv.")
    configs.check_overrides(options.overrides, folders, multirun)
    if others and not multirun:  # a single run is composed by Hydra itself: its own settings are checked here
        configs.compose_with_hydra(overrides, folders)
    return _Request(overrides, multirun, broken)


def _show(hydra: "Hydra", options: Namespace, overrides: list[str]) -> None:
    """Print what a flag asks for in the place of a run: --hydra-help, --info or --cfg."""
    from asr_exp.config import compose as configs

    if options.hydra_help:
        hydra.hydra_help(config_name="config", args_parser=hydra_parser(), args=options)
    elif options.info:
        hydra.show_info(options.info, config_name="config", overrides=overrides)
    else:
        configs.validate(configs.compose(options.overrides, options.config_dir))
        hydra.show_cfg(
            config_name="config",
            overrides=overrides,
            cfg_type=options.cfg,
            package=options.package,
            resolve=options.resolve,
        )


def _sweep(folders: list[Path], command: str, options: Namespace, request: _Request) -> int:
    """Run a command for every cell of a sweep and return the exit status: 0 where every cell is done."""
    from asr_exp.sweeps.driver import sweep

    if command in OF_NAMES:
        from asr_exp.cli.sweep_check import check_cells

        check_cells(options.overrides, options.config_dir, command)
    status = sweep(
        folders,
        lambda folder: Job(command, options.config_dir, folder),
        command,
        [*request.overrides, "hydra.mode=MULTIRUN"],
    )
    print("".join(f"failed  experiment={row}  could not be composed\n" for row in request.broken), end="")
    return status or int(bool(request.broken))


def main_and_exit() -> NoReturn:
    """Run this process's own command line and end the process with its exit status.

    A rank of several, started by `launch` or torchrun, ends by `exit_rank`.
    """
    try:
        status: Any = main()
    except SystemExit as end:  # of a run that was asked to leave: past Hydra
        status = end.code
    if "RANK" in os.environ:
        exit_rank(status)
    sys.exit(status)
