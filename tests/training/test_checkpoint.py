"""Checkpoints through deaths at every moment, full disks and broken files; the lock of a run folder; averaged
weights.
"""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from asr_exp.core.errors import UserError
from asr_exp.core.files import locked, recover, write_folder
from asr_exp.training import checkpoint
from asr_exp.training.checkpoint import average_recent, keep_recent, load_state, load_weights, save_state

OLD, NEW = ({f"{n}.txt": f"{age} {n}" for n in ("a", "b", "c")} for age in ("old", "new"))
STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


class Killed(BaseException):
    """A death: nothing may catch it."""


class Fate:
    """Counts the steps that change the disk, and dies at the one that is fatal."""

    def __init__(self, monkeypatch):
        self.count = 0
        self.fatal = None
        self.patch = monkeypatch
        for name in STEPS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, real):
        def step(*given, **named):
            self.step()
            return real(*given, **named)

        return step

    def step(self):
        self.count += 1
        if self.fatal is not None and self.count > self.fatal:
            raise Killed

    def dies(self, fatal, work):
        """Whether `work` died at that step; a dead process does nothing more."""
        self.count, self.fatal = 0, fatal
        try:
            work()
            return False
        except Killed:
            return True
        finally:
            self.fatal = None

    def fill(self, contents):
        """A filler of a folder that may die before each file and in the middle of it."""

        def write(place):
            for name, text in contents.items():
                self.step()
                (place / name).write_text(text[:2])
                self.step()
                (place / name).write_text(text)

        return write


@pytest.fixture
def fate(monkeypatch):
    return Fate(monkeypatch)


def contents(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


def begin(folder, earlier):
    if earlier:
        write_folder(folder, lambda place: [(place / n).write_text(t) for n, t in earlier.items()])


@pytest.mark.parametrize("earlier", [None, OLD], ids=["the first", "another"])
def test_a_death_at_any_step_leaves_the_old_or_the_new_one_whole(tmp_path, fate, earlier):
    found = []
    for fatal in itertools.count():
        folder = tmp_path / str(fatal) / "last"
        folder.parent.mkdir()
        begin(folder, earlier)
        if not fate.dies(fatal, lambda folder=folder: write_folder(folder, fate.fill(NEW))):
            break
        assert recover(folder) == folder.exists()
        found.append(contents(folder) if folder.exists() else None)
        assert [p.name for p in folder.parent.iterdir()] == (["last"] if folder.exists() else [])
        assert recover(folder) == folder.exists()  # again changes nothing
        write_folder(folder, fate.fill(NEW))
        assert contents(folder) == NEW
    assert contents(folder) == NEW and fatal == len(found) > 10
    assert all(one in (earlier, NEW) for one in found)
    if earlier:
        assert NEW in found and earlier in found
        # once it is the new one, it stays the new one
        assert found == sorted(found, key=lambda one: one == NEW)


def test_a_death_while_recovering_from_a_death(tmp_path, fate):
    tried = 0
    for fatal in itertools.count():
        for again in itertools.count():
            folder = tmp_path / f"{fatal}-{again}" / "last"
            begin(folder, OLD)
            finished = not fate.dies(fatal, lambda folder=folder: write_folder(folder, fate.fill(NEW)))
            recovered = not fate.dies(again, lambda folder=folder: recover(folder))
            assert recover(folder) and contents(folder) in (OLD, NEW)
            tried += 1
            if recovered:
                break
        if finished:
            break
    assert tried > 30


def test_what_a_process_leaves_that_lives_on_is_no_obstacle(tmp_path, fate):
    folder = tmp_path / "last"
    begin(folder, OLD)
    for fatal in range(6):
        assert fate.dies(fatal, lambda: write_folder(folder, fate.fill(NEW)))  # as by Ctrl-C
        assert contents(folder) == OLD
    write_folder(folder, fate.fill(NEW))
    assert contents(folder) == NEW and [p.name for p in tmp_path.iterdir()] == ["last"]


def test_nothing_to_recover(tmp_path):
    assert recover(tmp_path / "last") is False and list(tmp_path.iterdir()) == []


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError(
        "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file\n\nmore"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("earlier", [None, OLD], ids=["the first", "another"])
def test_a_full_disk_is_said_in_one_line_and_harms_nothing(tmp_path, earlier, error):
    folder = tmp_path / "checkpoints" / "last"
    begin(folder, earlier)

    def fill(place):
        (place / "a.txt").write_text("half")
        raise error

    with pytest.raises(UserError) as raised:
        write_folder(folder, fill)
    said = str(raised.value)
    assert str(folder) in said and "MiB free" in said and "\n" not in said
    assert (str(error).split("\n")[0] or type(error).__name__) in said
    assert folder.exists() == (earlier is not None) and (not earlier or contents(folder) == OLD)
    assert not folder.with_name("last.new").exists()


def test_a_full_disk_on_which_not_even_a_folder_can_be_made(tmp_path, monkeypatch):
    def mkdir(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match="No space left"):
        write_folder(tmp_path / "run" / "checkpoints" / "last", lambda place: None)


def test_a_full_disk_while_flushing(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    begin(tmp_path / "last", OLD)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="No space left"):
        begin(tmp_path / "last", NEW)
    assert contents(tmp_path / "last") == OLD


def test_an_error_of_the_user_passes_as_it_is(tmp_path):
    def fill(place):
        raise UserError("say this")

    with pytest.raises(UserError, match="^say this$"):
        write_folder(tmp_path / "last", fill)


def test_files_are_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync = os.fsync
    rename = Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: order.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle)
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: order.append("named") or rename(self, to))
    begin(tmp_path / "last", NEW)
    assert order[-1] == "named" and {Path(p).name for p in order[:-1]} >= set(NEW)


# ------------------------------------------------------------------------------------------------------------
# the lock

HOLD = """
import pathlib, sys, time
from asr_exp.core.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process is at work in .*run"), locked(folder):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        for _ in range(2):  # and it is given back
            with locked(folder):
                pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="oops"), locked(tmp_path):
        raise ValueError("oops")
    with locked(tmp_path):
        pass


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_root"), locked(tmp_path / "file" / "run"):
        pass


# ------------------------------------------------------------------------------------------------------------
# state and weights


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {
        "state": {"step": 3, "best": {"value": 0.25}},
        "ema": [torch.randn(3)],
        "none": None,
        "scaler": {},
    }
    save_state(tmp_path, state)
    loaded = load_state(tmp_path, torch.device("cpu"))
    assert (
        loaded["state"] == state["state"]
        and torch.equal(loaded["ema"][0], state["ema"][0])
        and loaded["none"] is None
    )


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "truncated", "code"])
def test_a_state_that_cannot_be_read_is_an_error_of_the_user(tmp_path, kind):
    path = tmp_path / checkpoint.STATE
    if kind in ("truncated", "code"):
        torch.save({"a": torch.zeros(1000)} if kind == "truncated" else {"a": Code(tmp_path / "made")}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    if kind in ("empty", "junk"):
        path.write_bytes(b"" if kind == "empty" else b"junk" * 100)
    with pytest.raises(UserError, match=r"training_state\.pt cannot be read \(.+\); delete"):
        load_state(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "made").exists()


def network(value=None):
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    if value is not None:
        for number, parameter in enumerate(net.parameters()):
            nn.init.constant_(parameter, value + number)
    return net


def test_weights_come_back_as_they_were(tmp_path):
    net, other = network(), network()
    safetensors.torch.save_model(net, str(tmp_path / "model.safetensors"))
    load_weights(tmp_path, other)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "other shape", "other names"])
def test_weights_that_do_not_fit_are_an_error_of_the_user(tmp_path, kind):
    path, net = tmp_path / "model.safetensors", network()
    if kind != "missing":
        wrong = {
            "other shape": nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)),
            "other names": nn.Linear(3, 2),
        }.get(kind, net)
        safetensors.torch.save_model(wrong, str(path))
    if kind in ("empty", "truncated"):
        path.write_bytes(path.read_bytes()[: 0 if kind == "empty" else -5])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be loaded \(.+\)"):
        load_weights(tmp_path, net)


def test_the_average_is_the_mean_of_the_last_kept(tmp_path):
    folder, values = tmp_path / "recent", [100.0, 1.0, 2.0, 6.0]
    for number, value in enumerate(values):
        keep_recent(folder, network(value).state_dict(), step=10 * (number + 1), count=3)
    kept = [f"{step:09d}.safetensors" for step in (20, 30, 40)]
    assert [p.name for p in sorted(folder.iterdir())] == [*kept, "checksums.json"]
    net = network()
    average_recent(folder, net)
    for number, parameter in enumerate(net.parameters()):
        assert torch.allclose(parameter, torch.full_like(parameter, 3.0 + number))


def test_the_weights_of_a_step_made_again_replace_those_of_the_first_time(tmp_path):
    for value in (1.0, 5.0):
        keep_recent(tmp_path, network(value).state_dict(), step=10, count=3)
    net = network()
    average_recent(tmp_path, net)
    assert next(net.parameters()).flatten().tolist() == [5.0] * 6


def test_a_full_disk_while_keeping_recent_weights(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    keep_recent(tmp_path / "recent", network(1.0).state_dict(), 10, 3)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        keep_recent(tmp_path / "recent", network(2.0).state_dict(), 20, 3)
    left = sorted(p.name for p in (tmp_path / "recent").iterdir())
    assert left == ["000000010.safetensors", "checksums.json"]


def test_damaged_weights_are_not_averaged(tmp_path):
    for step in (10, 20):
        keep_recent(tmp_path, network(float(step)).state_dict(), step, 3)
    path = tmp_path / "000000010.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"000000010\.safetensors is not what was written.*Delete that file"):
        average_recent(tmp_path, network())
    path.unlink()
    average_recent(tmp_path, net := network())
    assert next(net.parameters()).flatten().tolist() == [20.0] * 6
