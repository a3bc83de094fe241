"""Files and folders that are whole or not there: written beside, then renamed; and the lock that keeps a
folder to one process.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from asr_exp.core.errors import UserError


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold a run folder; the lock goes with the process, however it ends.

    patience: seconds to wait for another process that holds it (-1: as long as it takes). Raises UserError
    where it holds it longer, and where nothing can be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:  # an OSError too
        raise UserError(
            f"Another process is at work in {folder}; wait for it, or end it, before you start the same run"
            " again."
        ) from None
    except OSError as why:
        raise UserError(
            f"The run folder {folder} cannot be written ({why.strerror or why}); give another"
            " output_root=FOLDER."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace a folder by a new one that `fill` writes; whenever the process dies, `recover` finds the old or
    the new one, whole.

    Raises UserError where it cannot be written (a full disk); what stood before still stands.
    """
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        fill(beside)
        _flush(beside)
    # RuntimeError is torch's way of saying that a disk is full
    except (OSError, RuntimeError, SafetensorError, MemoryError) as why:
        shutil.rmtree(beside, ignore_errors=True)
        raise write_error(folder, why) from why
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    beside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def recover(folder: Path) -> bool:
    """Undo what a kill in the middle of `write_folder` left -> whether the folder is there."""
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if not folder.exists():
        # The old one is moved away only once the new one is complete, so with an old one the new one is
        # whole.
        if before.exists() and beside.exists():
            beside.rename(folder)
        elif before.exists():
            before.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)
    return folder.exists()


def write_error(folder: Path, why: Exception) -> UserError:
    free = shutil.disk_usage(next(p for p in folder.parents if p.exists())).free / 2**20
    before = "The one before it is whole: make" if folder.exists() else "Make"
    return UserError(
        f"The checkpoint {folder} could not be written ({short_reason(why)}; {free:.0f} MiB free on that"
        f" disk). {before} room and give the same command again to go on."
    )


def short_reason(why: Exception) -> str:
    """The first line of an error's message; its name where it has none (EOFError, MemoryError)."""
    return str(why).strip().split("\n")[0] or type(why).__name__


def _flush(folder: Path) -> None:
    """Have every file of a folder on the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, or None where there is none (or a torn one)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a small file in one go: a reader sees the old or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run."""
    return (Path(folder).expanduser() / "config.yaml").is_file()
