"""One process a device, started and ended together."""

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
from asr_exp.runtime.signals import LEAVE


def task_overrides() -> list[str]:
    """What the user gave on the command line for this run (of a sweep: for this cell), to hand to another
    process.
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
    """Run `asr_exp COMMAND OVERRIDES` as `devices` ranks on this machine -> the exit status.

    When one rank dies the others are ended; SIGINT and the signals of LEAVE sent to this process are handed
    on to the ranks. Raises Stopped where they left because of one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    shared = {
        **os.environ,
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "asr_exp", command, *overrides],
            env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)},
        )
        for r in range(devices)
    ]

    handed_on: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        handed_on.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (*LEAVE, signal.SIGINT)}
    try:
        while (ended := [p for p in ranks if p.poll() is not None]) != ranks:
            if any(p.returncode for p in ended):
                _end(ranks)
            time.sleep(0.05)
    finally:
        _end(ranks)
        for number, handler in before.items():
            signal.signal(number, handler)
    # A rank that was ended because another failed (1, or by a signal) tells less than one that knows why.
    codes = [p.returncode for p in ranks if p.returncode]
    for asked in handed_on:
        if 128 + asked in codes:
            raise Stopped("The ranks have saved and left; the same command goes on from there.", asked)
    return max((c for c in codes if c > 0), default=1 if codes else 0)


def _end(ranks: Sequence[subprocess.Popen]) -> None:
    """Give running ranks a moment to leave by themselves, then ask them to, then make them."""
    for patience, last_word in ((2.0, subprocess.Popen.terminate), (15.0, subprocess.Popen.kill)):
        deadline = time.monotonic() + patience
        while any(p.poll() is None for p in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in ranks:
            if process.poll() is None:
                last_word(process)
    for process in ranks:
        process.wait()
