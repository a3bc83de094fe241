"""Files and folders that are written whole or not at all, under another name that is then changed; and the
lock that keeps a folder to one process.
"""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from asr_exp.core.checksums import CHECKSUMS, checksums_of, write_checksums
from asr_exp.core.errors import UserError
from asr_exp.core.locks import FileLock, Timeout


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold the lock of a run folder; however the process ends, the lock ends with it.

    patience: seconds to wait for another process that holds the lock (-1: as long as it takes). Raises
    UserError where the other process holds it longer, and where the folder cannot be written.
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


def write_folder(
    folder: Path, fill: Callable[[Path], None], checked: bool = False, keep_old: bool = False
) -> None:
    """Replace a folder by a new one that `fill` writes. Whenever the process dies, `recover` brings back the
    old or the new folder, whole.

    checked: write the checksums of its files too, for `checksums.damage`. keep_old: keep the folder that was
    there before, as `NAME.old`; the one before that goes first, so that there is never room for three needed.
    Raises UserError where the new folder cannot be written (a full disk); the old one is then untouched.
    """
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(beside, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(before, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        fill(beside)
        with ThreadPoolExecutor(1) as beneath:  # the sums are taken while the disk is at work
            sums = beneath.submit(checksums_of, beside) if checked else None
            _flush(beside)
        if sums:
            write_checksums(beside, sums.result())
    # torch raises RuntimeError when a disk is full
    except (OSError, RuntimeError, SafetensorError, MemoryError) as why:
        shutil.rmtree(beside, ignore_errors=True)
        raise write_error(folder, why) from why
    if folder.exists():
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
    beside.rename(folder)
    if not keep_old:
        shutil.rmtree(before, ignore_errors=True)


def recover(folder: Path, keep_old: bool = False) -> bool:
    """Clean up after a kill in the middle of `write_folder`, and return whether the folder exists.

    keep_old: as it was written with.
    """
    beside, before = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if not folder.exists():
        # The old one is moved away only once the new one is complete, so with an old one the new one is
        # whole; unless the user has deleted the folder.
        if before.exists() and beside.exists() and (not keep_old or (beside / CHECKSUMS).exists()):
            beside.rename(folder)
        elif before.exists():
            before.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    if not keep_old:
        shutil.rmtree(before, ignore_errors=True)
    return folder.exists()


def write_error(folder: Path, why: Exception) -> UserError:
    """The error for a checkpoint that could not be written, with the room that its disk has left."""
    free = shutil.disk_usage(next(p for p in folder.parents if p.exists())).free / 2**20
    before = "The one before it is whole: make" if folder.exists() else "Make"
    return UserError(
        f"The checkpoint {folder} could not be written ({short_reason(why)}; {free:.0f} MiB free on that"
        f" disk). {before} room and give the same command again to go on."
    )


def short_reason(why: Exception) -> str:
    """The first line of an error's message, or the error's name where the message is empty (EOFError)."""
    return str(why).strip().split("\n")[0] or type(why).__name__


def _flush(folder: Path) -> None:
    """Wait until every file of a folder is on the disk, before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, an object; None where the file does not exist, is not complete or holds
    something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """The content that `write_sealed_json` wrote; None where the file does not exist or is not as it was
    written.
    """
    content = None
    with contextlib.suppress(RecursionError):
        content = read_json(path)
    if not isinstance(content, dict) or content.pop("crc32", None) != _json_checksum(content):
        return None
    return content


def write_sealed_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file that has a checksum of its own content, CRC-32, as the last of its keys.

    The keys of the content and of what is in it are strings: JSON has no others, and the checksum is of it.
    """
    sealed = {**content, "crc32": _json_checksum(content)}
    with replacing(path) as file:
        file.write(json.dumps(sealed).encode())


def _json_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def file_checksum(path: Path) -> int:
    """CRC-32 of the content of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another when the block ends, after it has been flushed to the disk.
    Where the block raises, the other stays as it was.
    """
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except Exception:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one step: a reader sees the old or the new text.

    Names of files that are not UTF-8 have halves of surrogate pairs in them. These become escapes, which are
    those of JSON.
    """
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(beside, path)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run: it holds a config.yaml."""
    return (Path(folder).expanduser() / "config.yaml").is_file()
