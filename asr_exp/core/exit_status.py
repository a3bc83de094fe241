"""How a process ends: the message on stderr, and the exit status."""

import atexit
import errno
import os
import re
import sys
import textwrap
import time
import traceback
from typing import NoReturn

from asr_exp.core.errors import RankLost, SmallerPasses, Stopped, UserError
from asr_exp.core.libraries import import_failure
from asr_exp.core.plugin_errors import plugin_failure, wants_traceback

# Seconds that rank 0 has to print a mistake that every rank has met; `launch` or torchrun then end the rest.
HEAD_START = 6.0
AGAIN = (
    75  # the exit status of a rank that asks for all ranks to be started again (EX_TEMPFAIL of sysexits.h)
)


def status_of(error: BaseException, where: str = "", quiet: bool = False) -> int:
    """Print what happened (a traceback only for a bug of ours), and return the exit status that goes with it.

    What every rank meets at the same time is printed by rank 0 alone. where: what the message begins with;
    quiet: print no message, but a traceback all the same.
    """
    # a Ctrl-C in the midst of an import is none of the library's faults
    if not isinstance(error, UserError | Stopped | KeyboardInterrupt) and (sentence := import_failure(error)):
        error = UserError(sentence)
    if isinstance(error, UserError):
        status, message = 2, str(error)
        if rank() > 0:
            time.sleep(HEAD_START)  # where rank 0 meets the same, this process is ended meanwhile
    elif isinstance(error, Stopped | KeyboardInterrupt):
        status = 128 + error.signal if isinstance(error, Stopped) else 130
        message = str(error) or "Interrupted."
        quiet = quiet or rank() > 0
    elif isinstance(error, RankLost):
        status = 1  # the rank that ended first has printed why, if it could
        message = str(error)
        quiet = quiet or rank() > 0
    elif isinstance(error, SmallerPasses):
        status, message = AGAIN, str(error)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            message += " torchrun starts them again with --max-restarts=3; without, give the same command."
    elif need := _out_of_memory(error):
        status, message = (
            2,
            (
                f"The device is out of memory{need}. What helps: trainer.precision=bf16,"
                " trainer.gradient_checkpointing=true, a smaller trainer.device_seconds, or a device that no"
                " other program uses."
            ),
        )
    elif full := _disk_full(error):
        status, message = (
            2,
            (
                f"The disk is full ({full}). Make room, or give another output_root= or cache_root=; the same"
                " command goes on."
            ),
        )
    elif failure := plugin_failure(error):
        status, message = 2, failure
    else:
        trace = "".join(traceback.format_exception(error))
        print(f"{where}{trace}", end="", file=sys.stderr, flush=True)
        return 1
    if status == 2 and wants_traceback() and not isinstance(error.__cause__ or error, UserError):
        print("".join(traceback.format_exception(error.__cause__ or error)), end="", file=sys.stderr)
    if not quiet:
        label = "stopped" if status > 128 else "error"
        say((label if rank() == 0 else f"{label} (rank {rank()})") + f": {where}", message)
    return status


def _out_of_memory(error: BaseException) -> str | None:
    """What a GPU that is out of memory was asked for, '' where that is not known; None for another error."""
    if "OutOfMemoryError" not in (
        kind.__name__ for kind in type(error).__mro__
    ):  # torch is not imported here
        return None
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    return f" (it was asked for {asked[1]} more)" if asked else ""


def _disk_full(error: BaseException | None) -> str | None:
    """The file that was being written when the disk was full, if that caused an error; None otherwise."""
    while error is not None:
        if (
            isinstance(error, OSError)
            and error.errno in (errno.ENOSPC, errno.EDQUOT)
            or "No space left on device" in str(error)
        ):
            return str(getattr(error, "filename", None) or error)
        error = error.__cause__ or error.__context__
    return None


def say(label: str, message: str) -> None:
    """Print a message on stderr, wrapped to the width of the terminal where there is one."""
    lines = message.splitlines() or [""]
    if sys.stderr.isatty():
        width = max(60, min(120, os.get_terminal_size(sys.stderr.fileno()).columns))
        lines = [
            textwrap.fill(line, width - 7, break_long_words=False, break_on_hyphens=False) for line in lines
        ]
    print(label + "\n".join(lines).replace("\n", "\n       "), file=sys.stderr, flush=True)


def rank() -> int:
    """The rank of this process, from the environment: it is known before the ranks have met."""
    return int(os.environ.get("RANK", 0))


def exit_rank(status: int) -> NoReturn:
    """End a rank of several: run the exit handlers, but leave out the finalization of the interpreter.

    Its work is on the disk. A thread of a library (gloo's, OpenMP's) that is still alive while Python
    finalizes can abort the process, and `launch` and torchrun would then count the run as failed: seen once
    in some seventy runs.
    """
    _run_exit_handlers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run_exit_handlers() -> None:
    """Call what is registered with `atexit`, which `os._exit` passes over.

    Python has no public way to do it; `_run_exitfuncs` was seen with Python 3.11. Without it a tracker or a
    worker process could lose what it has not written yet, so on a Python that lacks it this raises.
    """
    atexit._run_exitfuncs()
