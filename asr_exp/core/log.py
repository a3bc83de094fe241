"""The log: to the terminal above progress bars, and to a file."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

log = logging.getLogger("asr_exp")


class _Handler(logging.Handler):
    """Prints records above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        # train.log keeps the traceback; what of a crash is printed, `exit_status.status_of` decides
        if record.exc_info:
            return
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextlib.contextmanager
def logging_to_terminal(main: bool, rank: int) -> Iterator[None]:
    """Send the log to the terminal: everything on rank 0 (main), only warnings on other ranks. At the end all
    handlers are closed, those of `log_to_file` too.
    """
    handler = _Handler(logging.INFO if main else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s" if main else f"[rank {rank}] %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        for one in list(log.handlers):
            log.removeHandler(one)
            one.close()
        log.propagate = True


class _File(logging.FileHandler):
    """A log file without the empty lines of the terminal. A full disk cuts it short without an error: what
    needs the room more raises one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if text := record.getMessage().lstrip("\n"):
            super().emit(logging.makeLogRecord({**vars(record), "msg": text, "args": None}))

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def log_to_file(path: Path) -> None:
    """Append the log to a file too, until `logging_to_terminal` ends."""
    handler = _File(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
