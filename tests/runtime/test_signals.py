"""Ranks whose parent is gone: they save, whatever has ended it, and the run goes on."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import harness
import pytest

from asr_exp.core.errors import Stopped
from asr_exp.runtime.signals import LEAVE, Signals

SETTINGS = [*harness.SMALL, "trainer.batch_seconds=8", "trainer.max_epochs=null", *harness.QUIET]


def test_the_first_signal_raises_and_later_ones_do_not_disturb_what_leaves():
    for number in LEAVE:
        before = [signal.getsignal(one) for one in LEAVE]
        left = []
        with pytest.raises(Stopped) as stopped, Signals(at_once=True) as outer:
            try:
                with Signals() as inner:
                    os.kill(os.getpid(), number)
                    left.append(inner.received)
                os.kill(os.getpid(), signal.SIGTERM)  # while what the inner one has noted is being saved
                left.append(outer.received)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                left.append("saved")
            raise Stopped("Saved.", number)
        assert left == [number, signal.SIGTERM, "saved"] and stopped.value.signal == number
        assert str(stopped.value) == "Saved." and [signal.getsignal(one) for one in LEAVE] == before


def test_at_once_raises():
    with pytest.raises(Stopped) as stopped, Signals(at_once=True):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert stopped.value.signal == signal.SIGUSR2


def test_what_a_library_makes_of_it_is_undone():
    """A signal in the midst of an import, which some libraries guard."""
    with pytest.raises(Stopped) as stopped, Signals(at_once=True):
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        except Exception as why:
            raise ImportError("it cannot be imported") from why
    assert stopped.value.signal == signal.SIGUSR1 and isinstance(stopped.value.__cause__, ImportError)
    with Signals(at_once=True):
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGUSR1)
        with Signals() as loop:
            assert loop.received == signal.SIGUSR1
        with pytest.raises(Stopped), Signals(at_once=True):
            pass


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun USR1", "torchrun told", "launch KILL"])
def test_ranks_whose_parent_ends_save_and_leave(tmp_path, corpus, alone, how):
    """torchrun dies of a SIGUSR1 unless it is told to hand it on; then the ranks save by themselves."""
    steps = ["trainer.max_steps=80", "trainer.eval_every=80"]
    words = [*corpus, *SETTINGS, *steps]
    parent, what = how.split()
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(harness.free_port()),
    ]
    if what == "told":
        torchrun += [
            "--signals-to-handle",
            "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
            "--shutdown-timeout",
            "300",
        ]
    started = [*torchrun, "-m", "asr_exp"] if parent == "torchrun" else ["-m", "asr_exp", "trainer.devices=2"]
    terminal = tmp_path / "terminal.txt"

    def start() -> subprocess.Popen:
        with terminal.open("ab") as file:
            command = [sys.executable, *started, *harness.latest(words)]
            return subprocess.Popen(
                command, cwd=tmp_path, stdout=file, stderr=file, env=harness.environment(SLURM_JOB_ID="0")
            )

    first = start()

    def written() -> int:
        return sum(len(harness.losses(path.parent)) for path in tmp_path.rglob("metrics.jsonl"))

    try:
        harness.wait_for(lambda: written() > 10)
        ranks = children(first.pid)
        first.send_signal(signal.SIGKILL if what == "KILL" else signal.SIGUSR1)
        first.wait(60)
        harness.wait_for(lambda: not any(Path(f"/proc/{rank}/cmdline").exists() for rank in ranks), 60)
    finally:
        first.kill()
    text = terminal.read_text()
    done = written()
    assert f"Stopped at step {done} of 80 and saved" in text and done < 80, text
    assert ("they save and leave" in text) == (what != "told")
    assert ("SIGUSR1 of SLURM's would end torchrun" in text) == (parent == "torchrun" and what != "told")
    second = start()  # the folder is not locked
    assert second.wait(300) == 0, terminal.read_text()
    assert f"Going on from step {done} of 80" in terminal.read_text()
    whole = alone([*words, "trainer.devices=2"])
    assert harness.losses(harness.run_folder(tmp_path)) == harness.losses(whole)
