"""From the command line to a command, run once or as a sweep, and to an exit status.

Whatever happens ends in an exit status: 0 done, 1 a crash of ours or a failed cell of a sweep, 2 a mistake
the user can mend, 128 + signal when asked to leave. What takes time to import is imported where it is needed,
so that --help comes at once.
"""

import ctypes
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from asr_exp import __version__
from asr_exp.core.exit_status import exit_rank, rank, say, status_of

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

from asr_exp.cli.arguments import commands, hydra_parser, is_bare, parse, run_of
from asr_exp.cli.run_command import Job

M_ARENA_MAX = -8  # of malloc.h

# Commands of many runs: they take the overrides as they are, and compose each of the runs themselves.
OF_MANY_RUNS = ("table",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's own) and return the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us; Hydra neither prints them nor exits
    # Threads that spin for long at each OpenMP barrier make a CPU run 10 times slower as soon as another
    # program wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # oneDNN, and torch once more, keep what is made for each shape of a product: by their own bounds (1024),
    # for a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
    # transformers asks a service of the hub's to convert the weights it loads, in a thread, where they are a
    # pickle: nobody wants that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # glibc's malloc: one heap for all threads; what each keeps of its own adds up to 50 MB
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    try:
        status = start(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        # it happened before the command, on every rank alike: rank 0 tells of it
        return status_of(error, quiet=rank() > 0)


def start(arguments: list[str]) -> int:
    """Show what is asked for, or run the command, once or as a sweep; the exit status.

    Raises UserError for anything in the arguments that cannot be.
    """
    if "-h" in arguments or "--help" in arguments:
        from asr_exp.cli import help

        topics = sorted(
            (word for word in arguments if not word.startswith("-")), key=lambda word: not is_bare(word)
        )
        print(help.page(next(iter(topics), None), commands()), end="")
        return 0
    if "--version" in arguments:
        print(f"asr_exp {__version__}")
        return 0

    options, command = parse(arguments)
    from asr_exp.config import compose as configs
    from asr_exp.config.groups import conf_folders
    from asr_exp.config.hydra_internals import hydra_at

    folders = conf_folders(options.config_dir)
    hydra = hydra_at(folders)
    try:
        return _start(hydra, command, options, folders)
    except Exception as error:
        if (told := configs.translate_error(error, folders)) is None:
            raise
        raise told from error


def _start(hydra: "Hydra", command: str, options: Namespace, folders: list[Path]) -> int:
    from hydra.types import RunMode

    from asr_exp.config import compose as configs

    if options.shell_completion:
        hydra.shell_completion(config_name="config", overrides=options.overrides)
        return 0
    if command in OF_MANY_RUNS and not (options.cfg or options.info or options.hydra_help):
        return run_of(command)(options.overrides, options.config_dir)
    broken: dict[str, str] = {}
    asked = configs.to_hydra_overrides(options.overrides)
    # Our own files ask for no sweep, so only what else is read is composed for it.
    others = len(folders) > 1 or any("hydra" in text for text in asked)
    multirun = (
        options.multirun
        or others
        and hydra.get_mode(config_name="config", overrides=asked) == RunMode.MULTIRUN
    )
    if multirun:
        options.overrides, broken = configs.expand_sweep(options.overrides, options.config_dir)
        for row, why in broken.items():
            say(f"error: experiment={row}: ", why)
        asked = configs.to_hydra_overrides(options.overrides)
    configs.check_overrides(options.overrides, folders, multirun)
    if options.hydra_help:
        hydra.hydra_help(config_name="config", args_parser=hydra_parser(), args=options)
    elif options.info:
        hydra.show_info(options.info, config_name="config", overrides=asked)
    elif options.cfg:
        configs.validate(configs.compose(options.overrides, options.config_dir))
        hydra.show_cfg(
            config_name="config",
            overrides=asked,
            cfg_type=options.cfg,
            package=options.package,
            resolve=options.resolve,
        )
    elif multirun:
        from asr_exp.sweeps.driver import sweep

        status = sweep(
            folders,
            lambda folder: Job(command, options.config_dir, folder),
            command,
            [*asked, "hydra.mode=MULTIRUN"],
        )
        print("".join(f"failed  experiment={row}  could not be composed\n" for row in broken), end="")
        return status or int(bool(broken))
    else:
        return hydra.run(
            config_name="config", task_function=Job(command, options.config_dir), overrides=asked
        ).return_value.code
    return 0


def main_and_exit() -> NoReturn:
    """Run this process's own command line and end the process, as `python -m asr_exp` and torchrun's ranks
    do.
    """
    try:
        status: Any = main()
    except SystemExit as end:  # of a run that was asked to leave: past Hydra
        status = end.code
    if "RANK" in os.environ:
        exit_rank(status)
    sys.exit(status)
