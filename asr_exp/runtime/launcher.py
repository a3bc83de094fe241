"""One process for each device, started and ended together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_exp.core.errors import Stopped
from asr_exp.core.exit_status import AGAIN
from asr_exp.runtime.cores import threads_of_rank
from asr_exp.runtime.signals import LEAVE


def task_overrides() -> list[str]:
    """The overrides of this run, in a sweep of this cell, and the user's --config-dir, as another process
    takes them.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    users = [
        s.path
        for s in hydra.runtime.config_sources
        if s.provider == "user" and Path(s.path) != Path.cwd() / "conf"
    ]
    return [*hydra.overrides.task, *(word for path in users for word in ("--config-dir", path))]


def launch(devices: int, command: str, overrides: Sequence[str]) -> int:
    """Run `asr_exp COMMAND OVERRIDES` as `devices` ranks on this machine, and return their exit status.

    Where a rank asks for it (`SmallerPasses`), all are started again. When one rank dies the others are
    ended. SIGINT and the signals of LEAVE that this process receives are sent on to the ranks. Raises Stopped
    where the ranks left because of one.
    """
    while (status := _run_ranks(devices, command, overrides)) == AGAIN:
        print("Starting all ranks again.", file=sys.stderr, flush=True)
    return status


def _run_ranks(devices: int, command: str, overrides: Sequence[str]) -> int:
    """Run the ranks once, and return their exit status."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads_of_rank(devices),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "asr_exp", command, *overrides],
            env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)},
        )
        for r in range(devices)
    ]

    forwarded: list[int] = []

    def forward(number: int, _: Any) -> None:
        # a rank that waits for another cannot handle a second Ctrl-C
        sent = signal.SIGKILL if number == signal.SIGINT and number in forwarded else number
        forwarded.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(sent)

    before = {number: signal.signal(number, forward) for number in (*LEAVE, signal.SIGINT)}
    try:
        while (ended := [p for p in ranks if p.poll() is not None]) != ranks:
            if any(p.returncode for p in ended):
                _end(ranks)
            time.sleep(0.05)
    finally:
        _end(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
    # A rank that was ended because another failed has the status 1, or a signal's: the largest says why.
    codes = [p.returncode for p in ranks if p.returncode]
    for received in forwarded:
        if 128 + received in codes or -signal.SIGKILL in codes and forwarded.count(signal.SIGINT) > 1:
            raise Stopped("The ranks have left; the same command goes on from the last checkpoint.", received)
    if AGAIN in codes:
        return AGAIN
    return max((c for c in codes if c > 0), default=1 if codes else 0)


def _end(ranks: Sequence[subprocess.Popen]) -> None:
    """Wait 2 s for running ranks to leave by themselves; then terminate them, and after 15 s kill them."""
    for patience, end in ((2.0, subprocess.Popen.terminate), (15.0, subprocess.Popen.kill)):
        deadline = time.monotonic() + patience
        while any(p.poll() is None for p in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in ranks:
            if process.poll() is None:
                end(process)
    for process in ranks:
        process.wait()
