"""Locks, with `flock` and without: they exclude, they end with the process that holds them, and no two
processes are ever inside at once.
"""

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from asr_exp.core import lock_files, locks
from asr_exp.core.errors import UserError
from asr_exp.core.files import locked
from asr_exp.core.locks import FileLock, Timeout, is_locked

CODES = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]
WITHOUT_FLOCK = """
import errno, fcntl, os, sys, time
from pathlib import Path
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
if {without}:
    fcntl.flock = flock
from asr_exp.core import lock_files
from asr_exp.core.locks import FileLock, Timeout
"""


@pytest.fixture(params=[None, *CODES], ids=["flock", "ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def disk(request, monkeypatch):
    """With `flock`, and with one that fails in each way."""
    monkeypatch.setattr(locks, "_told", False)
    if request.param:
        no_flock(monkeypatch, request.param)
    return request.param


def no_flock(monkeypatch, code=errno.ENOLCK):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def python(script, without, *arguments, **how):
    """A second process, in which `flock` fails or not."""
    text = WITHOUT_FLOCK.format(without=without) + script
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], text=True, **how)


def test_one_at_a_time(tmp_path, disk):
    first, second = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    with first:
        assert first.is_held and is_locked(tmp_path / "a.lock")
        begin = time.monotonic()
        with pytest.raises(Timeout):
            second.acquire(timeout=0)
        assert time.monotonic() - begin < 5 and not second.is_held
        with pytest.raises(Timeout):
            second.acquire(timeout=0.6)
        with pytest.raises(RuntimeError):
            first.acquire()
        with FileLock(tmp_path / "b.lock"):
            pass
    assert not is_locked(tmp_path / "a.lock") and not is_locked(tmp_path / "none.lock")
    second.acquire(timeout=0)
    second.release()
    second.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "b.lock"]


def test_a_lock_ends_with_its_object(tmp_path, disk):
    FileLock(tmp_path / "a.lock").acquire()
    with FileLock(tmp_path / "a.lock", timeout=0):
        pass


def test_the_lack_of_flock_is_told_once(tmp_path, disk, caplog):
    for name in "aab":
        with FileLock(tmp_path / name):
            pass
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(disk)
    assert all(os.strerror(disk) in record.message for record in caplog.records)


def test_another_error_of_flock_is_no_reason_to_do_without(tmp_path, monkeypatch):
    no_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        FileLock(tmp_path / "a.lock", timeout=0).acquire()


def test_the_lock_of_another_library_counts(tmp_path):
    with filelock.FileLock(tmp_path / "a.lock"), pytest.raises(Timeout):
        FileLock(tmp_path / "a.lock").acquire(timeout=0)
    with FileLock(tmp_path / "a.lock"), pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / "a.lock").acquire(timeout=0)


def test_a_lock_file_counts_where_flock_works_too(tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        no_flock(context)
        first = FileLock(tmp_path / "a.lock")
        first.acquire()
    with pytest.raises(Timeout):
        FileLock(tmp_path / "a.lock").acquire(timeout=0)
    first.release()
    with FileLock(tmp_path / "a.lock", timeout=0):
        pass


HOLD = """
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("without", [False, True], ids=["flock", "none"])
def test_a_killed_process_leaves_no_lock(tmp_path, monkeypatch, without):
    if without:
        no_flock(monkeypatch)
    path = tmp_path / "run" / ".lock"
    path.parent.mkdir()
    with python(HOLD, without, path, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(UserError, match="Another process is at work"), locked(path.parent):
            pass
        holder.send_signal(signal.SIGSTOP)  # asleep is not dead
        assert is_locked(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not is_locked(path)
        with locked(path.parent):
            assert is_locked(path)


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "os._exit(0)"])
def test_a_process_that_ends_leaves_no_lock_file(tmp_path, monkeypatch, end):
    no_flock(monkeypatch)
    path = tmp_path / "a.lock"
    script = f"lock = FileLock(sys.argv[1])\nlock.acquire()\n{end}\n"
    with python(script, True, path, stderr=subprocess.DEVNULL) as holder:
        holder.wait()
    assert (tmp_path / "a.lock.held").exists() == ("_exit" in end)
    with FileLock(path, timeout=0):
        pass


def held_by(path, **holder):
    held = path.with_name(path.name + ".held")
    path.touch()
    mine = {"host": lock_files._machine(), "pid": os.getpid(), "born": lock_files._born(os.getpid())}
    held.write_text(json.dumps({**mine, "token": "x", **holder}))
    return held


def test_who_is_dead(tmp_path, monkeypatch):
    no_flock(monkeypatch)
    path = tmp_path / "a.lock"
    held_by(path)
    assert is_locked(path)
    held_by(path, born="1")  # an older process of the same number
    assert not is_locked(path) and not path.with_name("a.lock.held").exists()
    held_by(path, pid=2**22 + 1)
    assert not is_locked(path)
    for holder in ({"host": "elsewhere", "pid": 2**22 + 1}, {"pid": None, "host": None}):
        held = held_by(path, **holder)  # of another machine: its time decides
        assert is_locked(path)
        os.utime(held, (time.time() - 60, time.time() - 60))
        assert is_locked(path)
        os.utime(held, (time.time() - 600, time.time() - 600))
        assert not is_locked(path)
    held = held_by(path)
    held.write_text('{"host": ')  # killed while it wrote
    assert is_locked(path)
    os.utime(held, (1, 1))
    assert not is_locked(path)
    with FileLock(path, timeout=0):
        assert is_locked(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.lock"]


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    no_flock(monkeypatch)
    monkeypatch.setattr(lock_files, "BEAT", 0.05)
    path = tmp_path / "a.lock"
    monkeypatch.setattr(lock_files._Heart, "_pid", 0)  # a thread with this beat
    with FileLock(path):
        held = path.with_name("a.lock.held")
        os.utime(held, (1, 1))
        give_up = time.monotonic() + 10
        while held.stat().st_mtime < 2 and time.monotonic() < give_up:
            time.sleep(0.02)
        assert held.stat().st_mtime > time.time() - 5


def test_what_another_has_taken_is_not_released(tmp_path, monkeypatch):
    no_flock(monkeypatch)
    path = tmp_path / "a.lock"
    with FileLock(path):
        held = held_by(path, host="elsewhere")
    assert held.exists()


def test_a_child_does_not_release_the_lock_of_its_parent(tmp_path, disk):
    lock = FileLock(tmp_path / "a.lock")
    lock.acquire()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(Timeout):
        FileLock(tmp_path / "a.lock").acquire(timeout=0)
    lock.release()


COUNT = """
time.sleep = lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.003))
counter = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with FileLock(counter.with_suffix(".lock")):
        value = int(counter.read_text())
        counter.write_text(str(value + 1))
"""
DIE = COUNT + "lock = FileLock(counter.with_suffix('.lock'))\nlock.acquire()\nos._exit(9)\n"


@pytest.mark.parametrize("without", [False, True], ids=["flock", "none"])
def test_no_two_processes_are_inside_at_once(tmp_path, without):
    """Six processes count together; three of them die with the lock in their hands."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [
        python(DIE if number % 2 else COUNT, without, counter, 150, stderr=subprocess.DEVNULL)
        for number in range(6)
    ]
    assert [worker.wait(timeout=100) for worker in workers] == [0, 9] * 3
    assert counter.read_text() == str(6 * 150)


def test_a_lock_whose_file_was_deleted_is_taken_anew(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    opened = os.open

    def open_and_delete(*arguments):
        file = opened(*arguments)
        if path.exists():
            monkeypatch.setattr(os, "open", opened)
            path.unlink()
        return file

    monkeypatch.setattr(os, "open", open_and_delete)
    with FileLock(path):
        assert path.exists() and is_locked(path)


def test_every_lock_goes_through_one_place():
    folder = Path(locks.__file__).parents[1]
    users = {
        path.name
        for path in folder.rglob("*.py")
        if "import fcntl" in (text := path.read_text()) or "filelock" in text
    }
    assert users == {"locks.py"}
