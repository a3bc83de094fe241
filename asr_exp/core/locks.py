"""Locks between processes: `flock` or, on a disk that has none (NFS and Lustre as some clusters mount them),
a lock file that its holder keeps fresh.

A lock ends with the process that holds it, however that ends: the kernel drops an `flock`; a lock file is
taken over once its holder is dead or, on another machine, has given no sign of life for two minutes.
"""

import contextlib
import errno
import logging
import os
import time
from pathlib import Path
from types import TracebackType

from asr_exp.core.lock_files import LockFile

try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
MISSING = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY}
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}  # by another process
_told = False


class Timeout(TimeoutError):
    """Another process, or another lock of this one, held the lock for longer than one would wait."""


class FileLock:
    """An exclusive lock by the name of a file, which is created where it is missing and stays.

    timeout: seconds to wait (-1: as long as it takes). Raises OSError where the file cannot be opened.
    """

    def __init__(self, path: str | Path, timeout: float = -1):
        self.path = Path(path)
        self.timeout = timeout
        self._file: int | None = None
        self._pid = 0
        self._lock_file: LockFile | None = None

    def acquire(self, timeout: float | None = None) -> None:
        """Wait for the lock and take it. Raises Timeout; a lock is taken once."""
        if self.is_held:
            raise RuntimeError(f"{self.path} is locked by this very object")
        timeout = self.timeout if timeout is None else timeout
        begin = time.monotonic()
        while not self._try():
            if 0 <= timeout <= time.monotonic() - begin:
                raise Timeout(f"{self.path} is locked")
            time.sleep(0.05 if fcntl and not _told else 0.5)  # a look at a lock file takes several requests

    def release(self) -> None:
        """Give the lock back, if it is held. In a child of the process that took it, the lock stays."""
        file, lock_file = self._file, self._lock_file
        self._file = self._lock_file = None
        if lock_file and self._pid == os.getpid():
            lock_file.release()
        if file is not None:
            with contextlib.suppress(OSError):
                if self._pid == os.getpid():
                    fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None or self._lock_file is not None

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.release()

    def _try(self) -> bool:
        """Take the lock, unless another holds it."""
        lock_file = LockFile(_beside(self.path))
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._pid = os.getpid()
        try:
            locked = _flock(file, self.path)
            if locked is None:
                if lock_file.acquire():
                    self._lock_file = lock_file
                    return True
            # one that was deleted meanwhile locks nothing; where flock comes and goes, lock files count too
            elif locked and _is_same(file, self.path) and lock_file.clear():
                self._file, file = file, -1
                return True
        finally:
            if file >= 0:
                os.close(file)
        return False


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of a file. A file that cannot be opened is that of no process."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return _flock(file, path) is False or not LockFile(_beside(path)).clear()
    finally:
        os.close(file)


def _flock(file: int, path: Path) -> bool | None:
    """Lock an open file; False where another process has, None where its disk has no such locks, which the
    log says once.
    """
    global _told
    why = "not on this system"
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in MISSING:
            raise
        why = error.strerror or str(error)
    if not _told:
        _told = True
        log.warning(
            "The disk of %s has no file locks (flock: %s): lock files (*.held), kept fresh by their holders,"
            " take their place.",
            path.parent,
            why,
        )
    return None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
