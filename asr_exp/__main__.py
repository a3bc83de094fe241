"""`python -m asr_exp [COMMAND] [GROUP=CHOICE ...] [KEY=VALUE ...]`: the first bare word is a command, without one it is `train`.

Whatever happens ends in an exit status: 0 done, 1 a crash of ours or a failed cell of a sweep, 2 a mistake the user can mend,
128 + signal when asked to leave. What takes time to import is imported where it is needed, so that --help comes at once.
"""

import ctypes
import importlib
import os
import re
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from asr_exp import __version__
from asr_exp.endings import leave, rank, say, status_of
from asr_exp.errors import Pruned, Stopped, UserError, nearest

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from asr_exp.sweeps.record import Cell

M_ARENA_MAX = -8  # of malloc.h
# The keys that bare words after a command stand for.
WORDS = {"compare": ("a", "b"), "evaluate": ("run",), "report": ("run", "b"), "serve": ("run",)}
# The key whose list they make up, however many they are.
LISTED = {"transcribe": "files", "align": "files"}
# Commands of many runs: they take the overrides as they are, and compose each of the runs themselves.
OF_MANY_RUNS = ("table",)
# Commands whose run= may also name a CTC checkpoint, a folder's or the hub's, that no run of ours made.
OF_CHECKPOINTS = ("evaluate", "transcribe", "align", "report", "export", "serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's own) and return the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us; Hydra neither prints them nor exits
    # Threads that spin for long at each OpenMP barrier make a CPU run 10 times slower as soon as another program wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # oneDNN, and torch once more, keep what is made for each shape of a product: by their own bounds (1024), for a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
    # transformers asks a service of the hub's to convert the weights it loads, in a thread, where they are a pickle: nobody wants that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with suppress(OSError, AttributeError):  # glibc's malloc: one heap for all threads; what each keeps of its own adds up to 50 MB
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    try:
        status = start(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `... --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return status_of(error, quiet=rank() > 0)  # it happened before the command, on every rank alike: rank 0 tells of it


def start(arguments: list[str]) -> int:
    """Show what is asked for, or run the command, once or as a sweep; the exit status.

    Raises UserError for anything in the arguments that cannot be.
    """
    if "-h" in arguments or "--help" in arguments:
        from asr_exp import help

        topics = sorted((word for word in arguments if not word.startswith("-")), key=lambda word: not _is_bare(word))
        print(help.page(next(iter(topics), None), commands()), end="")
        return 0
    if "--version" in arguments:
        print(f"asr_exp {__version__}")
        return 0

    options, command = parse(arguments)
    from asr_exp import config as configs

    folders = configs.conf_folders(options.config_dir)
    hydra = configs.hydra_at(folders)
    try:
        return _start(hydra, command, options, folders)
    except Exception as error:
        if (told := configs.explained(error, folders)) is None:
            raise
        raise told from error


def _start(hydra: "Hydra", command: str, options: Namespace, folders: list[Path]) -> int:
    from hydra.types import RunMode

    from asr_exp import config as configs

    if options.shell_completion:
        hydra.shell_completion(config_name="config", overrides=options.overrides)
        return 0
    if command in OF_MANY_RUNS and not (options.cfg or options.info or options.hydra_help):
        return importlib.import_module(f"asr_exp.commands.{command}").run(options.overrides, options.config_dir)
    broken: dict[str, str] = {}
    asked = configs.in_hydras_words(options.overrides)
    # Our own files ask for no sweep, so only what else is read is composed for it.
    others = len(folders) > 1 or any("hydra" in text for text in asked)
    multirun = options.multirun or others and hydra.get_mode(config_name="config", overrides=asked) == RunMode.MULTIRUN
    if multirun:
        options.overrides, broken = configs.written_out(options.overrides, options.config_dir)
        for row, why in broken.items():
            say(f"error: experiment={row}: ", why)
        asked = configs.in_hydras_words(options.overrides)
    configs.check_overrides(options.overrides, folders, multirun)
    if options.hydra_help:
        hydra.hydra_help(config_name="config", args_parser=_parser(), args=options)
    elif options.info:
        hydra.show_info(options.info, config_name="config", overrides=asked)
    elif options.cfg:
        configs.validate(configs.compose(options.overrides, options.config_dir))
        hydra.show_cfg(config_name="config", overrides=asked, cfg_type=options.cfg, package=options.package, resolve=options.resolve)
    elif multirun:
        from asr_exp.sweeps.driver import sweep

        status = sweep(hydra, lambda folder: Job(command, options.config_dir, folder), command, [*asked, "hydra.mode=MULTIRUN"])
        print("".join(f"failed  experiment={row}  could not be composed\n" for row in broken), end="")
        return status or int(bool(broken))
    else:
        return hydra.run(config_name="config", task_function=Job(command, options.config_dir), overrides=asked).return_value.code
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# the command line


def commands() -> dict[str, Path]:
    """The commands by name: a file each in asr_exp/commands."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "commands").glob("*.py")) if not path.stem.startswith("_")}


def parse(arguments: list[str]) -> tuple[Namespace, str]:
    """Hydra's flags and overrides, and the command.

    Raises UserError for a command or a flag that there is not.
    """
    options = _parser().parse_intermixed_args(arguments)
    if options.config_path or options.config_name or options.experimental_rerun:
        raise UserError("--config-path, --config-name and --experimental-rerun are not for this program; --config-dir adds YAML files.")
    if options.resolve and not options.cfg:
        raise UserError("--resolve goes with --cfg job.")
    known = commands()
    if late := next((word for word in options.overrides[1:] if word in known), None):
        raise UserError(f"The command comes first: python -m asr_exp {late} KEY=VALUE ...")
    if not options.overrides or not _is_bare(options.overrides[0]):
        return options, "train"
    command = options.overrides.pop(0)
    if command not in known:
        from asr_exp.config import choices, conf_folders

        groups = [f"{group}={command}" for group, names in choices(conf_folders(options.config_dir)).items() if command in names]
        hint = f" Did you mean {' or '.join(groups)}?" if groups else nearest(command, known)
        raise UserError(f"There is no command {command!r}.{hint} The commands: {', '.join(known)}; a setting is key=value.")
    options.overrides = _named(options.overrides, command)
    return options, command


def _named(words: list[str], command: str) -> list[str]:
    """The words after a command, the bare ones as the keys that they stand for, in quotes: a name may read as a number."""
    bare = _is_recording if command in LISTED else _is_bare
    quoted = {index: _literal(word) for index, word in enumerate(words) if bare(word)}
    if command in LISTED and quoted:
        listed = f"{LISTED[command]}=[{','.join(quoted.values())}]"
        return [listed, *(word for index, word in enumerate(words) if index not in quoted)]
    keys = dict(zip(quoted, WORDS.get(command, ()), strict=False))
    return [f"{keys[index]}={quoted[index]}" if index in keys else word for index, word in enumerate(words)]


def _parser() -> ArgumentParser:
    from hydra._internal.utils import get_args_parser

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{message[0].upper()}{message[1:]}. See --help and --hydra-help for the flags.")

    parser = get_args_parser()
    parser.__class__ = Parser
    return parser


def _is_bare(word: str) -> bool:
    return word == "-" or "=" not in word and not word.startswith(("-", "+", "~"))


def _is_recording(word: str) -> bool:
    """Whether a word is a bare one, or a file's name all the same: `a=b.wav`, where there is one, or `talks/a=b.wav`."""
    from asr_exp.hints import OPTIONAL_GROUPS, key_field

    key = word.partition("=")[0].strip("+~ ")
    if _is_bare(word) or word.startswith("-") or key in OPTIONAL_GROUPS or key_field(key):
        return _is_bare(word)
    return os.path.exists(word) or any(sign in key for sign in "/ [") and not key.startswith("hydra/")


def _literal(word: str) -> str:
    """A word as a value that Hydra and OmegaConf take for the text that it is."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(re.sub(r"(\\*)\$\{", r"\1\1\\${", word), Quote.single).with_quotes()


# ---------------------------------------------------------------------------------------------------------------------
# one run


@dataclass(frozen=True)
class Job:
    """A command, to be called with a composed config, here or in another process of a sweep. record: its folder, for a cell of one."""

    command: str
    config_dir: str | None = None
    record: Path | None = None

    def __call__(self, config: "DictConfig") -> "Cell":
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from asr_exp import config as configs
        from asr_exp.sweeps.record import Cell, ended
        from asr_exp.untrained import of_checkpoint

        hydra = HydraConfig.get()
        asked: Any = OmegaConf.to_container(hydra.overrides.task)
        number = 1 + int((config.sweep.trial if config.sweep.trial is not None else hydra.job.num) if self.record else 0)
        cell = Cell(number, "running", shlex.join(word for word in asked if not word.startswith(("sweep.", "sweeper="))))
        if self.record and rank() == 0:
            print(f"\ncell {cell.cell}: {cell.overrides or '(defaults)'}", flush=True)
        try:
            if config.run and (configs.is_run(config.run) or self.command not in OF_CHECKPOINTS):
                config = configs.load_run(config.run, asked, self.config_dir)
            elif config.run and self.command == "evaluate":
                config = of_checkpoint(asked, self.config_dir)
            configs.validate(config)
            run = importlib.import_module(f"asr_exp.commands.{self.command}").run
            configs.import_plugins(config)
            if config.rehearsal and not config.run:
                from asr_exp import rehearsal

                config = rehearsal.prepared(config)
                run = partial(rehearsal.rehearse, run=run) if self.command == "train" else run
            cell = self._noted(replace(cell, folder=config.run or str(configs.run_folder(config))))
            done = run(config) or 0
            folder, status = (done, 0) if isinstance(done, Path) else (Path(cell.folder), done)
            return self._noted(ended(cell, folder, config.split, status))
        except Stopped as error:
            self._noted(replace(cell, status="stopped", reason=str(error)))
            status = status_of(error)
            if "SUBMITIT_EXECUTOR" in os.environ and callable(requeue := signal.getsignal(error.signal)):
                requeue(error.signal, None)  # submitit's own: it puts the job back in the queue and ends this process
            raise SystemExit(status) from error  # past Hydra, which would go on with the next cell
        except Pruned as error:
            print(f"Pruned: {error}", flush=True)
            return self._noted(ended(cell, Path(cell.folder), config.split, 0))
        except KeyboardInterrupt as error:
            self._noted(replace(cell, status="stopped", reason="interrupted"))
            if self.command == "train":
                told = "Interrupted. A run goes on from its last checkpoint when it is given the same command."
                raise KeyboardInterrupt(told) from error
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            return self.failed(cell, error)

    def failed(self, cell: "Cell", error: Exception) -> "Cell":
        """Tell of a cell that failed, and note it."""
        status = status_of(error, f"cell {cell.cell}: " if self.record else "")
        reason = (str(error).splitlines() or [""])[0]
        reason = reason if status == 2 else f"{type(error).__name__}: {reason}"
        return self._noted(replace(cell, status="failed", code=status, reason=reason))

    def _noted(self, cell: "Cell") -> "Cell":
        if self.record and rank() == 0:
            from asr_exp.sweeps.record import note

            note(self.record, cell)
        return cell


if __name__ == "__main__":
    # By its own name, so that what is pickled here can be found by the processes of a launcher.
    own: Any = importlib.import_module("asr_exp.__main__")
    try:
        status = own.main()
    except SystemExit as end:  # of a run that was asked to leave: past Hydra
        status = end.code
    if "RANK" in os.environ:
        leave(status)
    sys.exit(status)
