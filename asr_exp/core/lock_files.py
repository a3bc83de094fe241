"""Lock files, for disks that have no `flock`: a file that one process alone can create and keeps fresh."""

import atexit
import contextlib
import json
import logging
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
BEAT = 15.0  # seconds from one sign of life of a holder to the next
# Seconds without one after which a holder on another machine is taken for dead: a client of NFS may see the
# time of a file a minute late.
STALE = 120.0


class LockFile:
    """The lock file at a path. Its holder writes its machine, its process and a token into it, and sets its
    time every `BEAT` seconds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._token = ""

    def acquire(self) -> bool:
        """Create the file, or take over that of a dead holder; False where another holder is alive."""
        if self._create():
            return True
        return self.clear() and self._create()

    def release(self) -> None:
        """Remove the file, if it is that of this process."""
        _Heart.drop(self)
        own, self._token = self.is_own(), ""
        if own:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def is_own(self) -> bool:
        """Whether the file on the disk is the one that this object has created, in this process."""
        holder = _read(self.path)
        return bool(self._token) and (holder.get("token"), holder.get("pid")) == (self._token, os.getpid())

    def clear(self) -> bool:
        """Whether no live process holds the file; that of a dead one is removed."""
        if not self.path.exists():
            return True
        if not self._is_dead():
            return False
        # One process at a time looks again and removes it: by then another may have taken the lock.
        guard = LockFile(self.path.with_name(f"{self.path.name}.guard"))
        if not guard._create():
            if guard._is_dead():
                with contextlib.suppress(OSError):
                    guard.path.unlink()
            return False
        try:
            if self._is_dead():
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
        finally:
            guard.release()
        return not self.path.exists()

    def touch(self) -> bool:
        """Show that the holder is alive; False where the file is another's by now, or gone."""
        try:
            if not self.is_own():
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a disk that does not answer now may do so in a moment
        return True

    def _create(self) -> bool:
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        self._token = uuid.uuid4().hex
        holder = {"host": _machine(), "pid": os.getpid(), "born": _born(os.getpid()), "token": self._token}
        try:
            os.write(file, json.dumps(holder).encode())
        finally:
            os.close(file)
        _Heart.add(self)
        return True

    def _is_dead(self) -> bool:
        """Whether there is a file, and its holder is dead."""
        holder = _read(self.path)
        if holder.get("host") == _machine() and os.name == "posix":
            return not _is_alive(holder.get("pid"), holder.get("born"))
        return _age(self.path) > STALE


class _Heart(threading.Thread):
    """The thread that touches every lock file that this process holds."""

    _held: dict[int, LockFile] = {}
    _guard = threading.Lock()
    _pid = 0

    @classmethod
    def add(cls, lock: LockFile) -> None:
        with cls._guard:
            if cls._pid != os.getpid():  # the first lock of this process; a fork takes no thread along
                cls._held = {}
                cls._pid = os.getpid()
                atexit.register(cls.release_all)
                cls(daemon=True).start()
            cls._held[id(lock)] = lock

    @classmethod
    def drop(cls, lock: LockFile) -> None:
        with cls._guard:
            cls._held.pop(id(lock), None)

    @classmethod
    def release_all(cls) -> None:
        """Release what this process still holds when it ends."""
        if cls._pid == os.getpid():
            for lock in list(cls._held.values()):
                lock.release()

    def run(self) -> None:
        sleep = threading.Event()
        while not sleep.wait(BEAT):
            with self._guard:
                held = list(self._held.values())
            for lock in held:
                if not lock.touch() and lock._token:
                    self.drop(lock)
                    log.warning(
                        "%s is gone or was taken by another process, which took this one for dead.", lock.path
                    )


def _read(path: Path) -> dict[str, Any]:
    """What a holder wrote; nothing where there is no file, or none that is whole."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its disk; 0 where there is none."""
    probe = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.now")
    try:
        with path.open("rb") as file:  # a client of NFS asks for the times of a file when it opens it
            touched = os.fstat(file.fileno()).st_mtime
        probe.touch()
        return probe.stat().st_mtime - touched
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _machine() -> str:
    """This machine since it was started, and the processes that this one sees (a container has its own)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process began, as the kernel counts: another process with the same number began later. '' where
    that is not known; "dead" of one whose end its parent has not taken note of.
    """
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] in "ZX" else fields[19]
    return ""


def _is_alive(pid: Any, born: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, TypeError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    now = _born(int(pid))
    return now != "dead" and (not now or not born or now == born)
