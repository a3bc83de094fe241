"""A rank that no longer answers ends the others, within the time that it may be silent; one that pauses, or
that has left in good order, does not.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import FORKS, free_port, wait_for

from asr_exp.core.errors import Stopped
from asr_exp.runtime.distributed import started

SILENCE = 3.0  # seconds


def rank(number: int, folder: Path, port: int, lives: tuple[str, str]) -> None:
    """A rank that leads one of these lives: "collective" waits for a message that does not come, "sleep" for
    no message; "leave" leaves at once, "stop" by a signal, "fail" by an error.
    """
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["ASR_EXP_SILENCE_SECONDS"] = str(SILENCE)
    sys.stderr = (folder / f"stderr{number}").open("w", buffering=1)
    life = lives[number]
    with contextlib.suppress(ValueError, Stopped), started("cpu", "fp32"):
        dist.barrier()
        (folder / f"met{number}").touch()
        if life == "collective":
            dist.all_reduce(torch.zeros(1))
        elif life == "sleep":
            wait_for((folder / "end").exists)
        elif life == "stop":
            raise Stopped("", signal.SIGTERM)
        elif life == "fail":
            raise ValueError
    time.sleep((5 if life == "fail" else 2.5) * SILENCE)  # it has left the others, and goes on
    os._exit(7)


@pytest.fixture
def ranks(tmp_path):
    """ranks(life, life) -> two processes that have met, which are killed in the end."""
    both = []

    def begin(*lives):
        port = free_port()
        both.extend(FORKS.Process(target=rank, args=(i, tmp_path, port, lives)) for i in (0, 1))
        for one in both:
            one.start()
        wait_for(lambda: all((tmp_path / f"met{i}").exists() for i in (0, 1)))
        time.sleep(SILENCE / 6)  # they have heard of each other
        return both

    yield begin
    for one in both:
        one.kill()
        one.join()


def ended_by(process, seconds):
    """The exit status of a process that ends in that time."""
    process.join(seconds)
    return process.exitcode


@pytest.mark.parametrize(
    ("life", "lost"),
    [
        ("collective", 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("collective", 0), ("sleep", 0), ("sleep", 1))
        ),
    ],
)
def test_a_rank_that_hangs_ends_the_other(ranks, tmp_path, life, lost):
    both = ranks(*(("sleep", life) if lost == 0 else (life, "sleep")))
    os.kill(both[lost].pid, signal.SIGSTOP)
    began = time.monotonic()
    assert ended_by(both[1 - lost], 5 * SILENCE) == 1
    assert 0.8 * SILENCE < time.monotonic() - began < 2 * SILENCE
    (line,) = (tmp_path / f"stderr{1 - lost}").read_text().splitlines()
    assert f"Nothing has been heard for 3 s of rank {lost} of host {os.uname().nodename}" in line
    assert "The same command goes on" in line
    assert ("the store of the ranks, 127.0.0.1:" in line) == (lost == 0)  # rank 0 has it


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_without_a_message_between_them(ranks, lost):
    both = ranks("sleep", "sleep")
    both[lost].kill()
    assert ended_by(both[1 - lost], 5 * SILENCE) == 1


@pytest.mark.slow
def test_a_pause_ends_nobody(ranks, tmp_path):
    both = ranks("sleep", "sleep")
    for paused in (0, 1):
        os.kill(both[paused].pid, signal.SIGSTOP)
        time.sleep(0.6 * SILENCE)
        os.kill(both[paused].pid, signal.SIGCONT)
    for one in both:  # as long as they like: what is counted is the time that a process was awake
        os.kill(one.pid, signal.SIGSTOP)
    time.sleep(1.5 * SILENCE)
    for one in both:
        os.kill(one.pid, signal.SIGCONT)
    time.sleep(SILENCE)
    assert [one.exitcode for one in both] == [None, None]
    (tmp_path / "end").touch()
    assert [ended_by(one, 30) for one in both] == [7, 7]


@pytest.mark.slow
@pytest.mark.parametrize("life", ["leave", "stop", "fail"])
def test_a_rank_that_leaves_in_good_order_ends_nobody(ranks, tmp_path, life):
    """Rank 0 writes results when rank 1 has nothing left to do; but an error is no good order."""
    both = ranks("sleep", life)
    time.sleep(1.7 * SILENCE)
    assert both[0].exitcode == (1 if life == "fail" else None)
    (tmp_path / "end").touch()
    # the one that has failed cannot be left to hang either
    assert [ended_by(one, 30) for one in both] == ([1, 1] if life == "fail" else [7, 7])
