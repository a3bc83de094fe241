"""How a process ends: what it says on stderr, and its exit status."""

import atexit
import errno
import os
import sys
import textwrap
import time
import traceback
from typing import NoReturn

from asr_exp.core.errors import RankLost, Stopped, UserError
from asr_exp.core.libraries import import_failure

# seconds that rank 0 has to tell of a mistake that every rank has met; `launch` and torchrun then end the
# others
HEAD_START = 6.0


def status_of(error: BaseException, where: str = "", quiet: bool = False) -> int:
    """Say what happened (a traceback only for what is our bug), and return the exit status that goes with it.

    Of what every rank is told or finds at the same time, rank 0 alone speaks.
    """
    if not isinstance(error, UserError) and (sentence := import_failure(error)):
        error = UserError(sentence)
    if isinstance(error, UserError):
        status, message = 2, str(error)
        if rank() > 0:
            time.sleep(HEAD_START)  # where rank 0 has found the same, this process is ended meanwhile
    elif isinstance(error, Stopped | KeyboardInterrupt):
        status = 128 + error.signal if isinstance(error, Stopped) else 130
        message = str(error) or "Interrupted."
        quiet = quiet or rank() > 0
    elif isinstance(error, RankLost):
        status = 1  # the rank that ended first has told why, if it could
        message = str(error)
        quiet = quiet or rank() > 0
    elif full := _disk_full(error):
        status, message = (
            2,
            (
                f"The disk is full ({full}). Make room, or give another output_root= or cache_root=; the same"
                " command goes on."
            ),
        )
    else:
        trace = "".join(traceback.format_exception(error))
        print(f"{where}{trace}", end="", file=sys.stderr, flush=True)
        return 1
    if not quiet:
        label = "stopped" if status > 128 else "error"
        say((label if rank() == 0 else f"{label} (rank {rank()})") + f": {where}", message)
    return status


def _disk_full(error: BaseException | None) -> str | None:
    """What was being written when the disk was full, where that is at the bottom of an error."""
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
    """A message on stderr; on a terminal, wrapped to its width."""
    lines = message.splitlines() or [""]
    if sys.stderr.isatty():
        width = max(60, min(120, os.get_terminal_size(sys.stderr.fileno()).columns))
        lines = [
            textwrap.fill(line, width - 7, break_long_words=False, break_on_hyphens=False) for line in lines
        ]
    print(label + "\n".join(lines).replace("\n", "\n       "), file=sys.stderr, flush=True)


def rank() -> int:
    """This process's among the ranks of a run, known before they have met."""
    return int(os.environ.get("RANK", 0))


def exit_rank(status: int) -> NoReturn:
    """End a rank of several with what is registered for the end, and without taking Python apart.

    Its work is on the disk. A thread of a library that is still about when Python's parts go (gloo's,
    OpenMP's) can abort the process, and `launch` and torchrun would then count the run as failed: seen once,
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
