"""Two hosts on one machine: network namespaces joined by a pair of virtual interfaces, each with a name of
its own. They see the same files, unless one of them is given an empty folder in the place of a shared one.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import environment

PORT = 29400


def why_not() -> str:
    """Why this machine cannot make network namespaces; '' where it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces are made by root"
    if missing := [name for name in ("ip", "unshare", "mount") if not shutil.which(name)]:
        return f"network namespaces need {missing[0]}"
    name = f"asr{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return f"no network namespace can be made: {made.stderr.strip()}" if made.returncode else ""


class TwoHosts:
    """The hosts `a` and `b` while the context lasts, at the addresses of `addresses`."""

    def __init__(self) -> None:
        own = os.getpid() % 100000
        self._names = {host: f"asr{own}{host}" for host in "ab"}
        self.addresses = {"a": "10.213.7.1", "b": "10.213.7.2"}
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> "TwoHosts":
        one, two = self._names.values()
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
            _ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
            for host, name in self._names.items():
                _ip("-n", name, "address", "add", f"{self.addresses[host]}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.clear()
        finally:
            for name in self._names.values():
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def clear(self) -> None:
        """Kill every process of the hosts, with what torchrun has left behind, and wait for their ends."""
        for name in self._names.values():
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in found.stdout.split():  # of this namespace alone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in self._started:
            process.wait()

    def cut(self) -> None:
        """Take the link between the hosts down: what is sent is lost, and no connection is closed."""
        _ip("-n", self._names["b"], "link", "set", "eth0", "down")

    def mend(self) -> None:
        _ip("-n", self._names["b"], "link", "set", "eth0", "up")

    def start(
        self, host: str, *command: Any, cwd: Path, hidden: Path | None = None, **more: str
    ) -> subprocess.Popen:
        """Start a command on a host. hidden: a folder that is an empty one of its own there."""
        first = [f"hostname {host}"]
        if hidden:
            first.append(f"mount -t tmpfs none {shlex.quote(str(hidden))}")
        script = " && ".join([*first, f"cd {shlex.quote(str(cwd))}", f"exec {shlex.join(map(str, command))}"])
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._names[host], "unshare", "--uts", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(GLOO_SOCKET_IFNAME="eth0", **more),
        )
        self._started.append(process)
        return process

    def torchrun(
        self,
        *overrides: Any,
        cwd: Path,
        options: tuple[str, ...] = (),
        hidden_from_b: Path | None = None,
        of_host: Mapping[str, Mapping[str, str]] | None = None,
        **more: str,
    ) -> dict[str, subprocess.Popen]:
        """`torchrun --nnodes 2 -m asr_exp OVERRIDES` on each host. of_host, more: environment variables."""
        return {
            host: self.start(
                host,
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1),
                *("--local-addr", self.addresses[host], "--rdzv-backend", "c10d"),
                *("--rdzv-endpoint", f"{self.addresses['a']}:{PORT}"),
                *("--rdzv-conf", f"is_host={int(host == 'a')}", *options, "-m", "asr_exp", *overrides),
                cwd=cwd,
                hidden=hidden_from_b if host == "b" else None,
                **(of_host or {}).get(host, {}),
                **more,
            )
            for host in "ab"
        }


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
