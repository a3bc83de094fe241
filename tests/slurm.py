"""A SLURM of one node on this machine, for tests: its daemons are started by hand in a scratch folder, with
ports and a socket of their own, and stopped by their process ids.

It needs root, and the packages `slurm-wlm` and `munge` (Debian, Ubuntu). There is no accounting: `sacct`,
which submitit asks for the state of its jobs, is a stand-in that asks `scontrol show job`.
"""

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness

DAEMONS = ("munged", "slurmctld", "slurmd")
GRACE = 20  # seconds that a preempted job has to leave

CONF = """
ClusterName=asr_exp_tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=1,sched_min_interval=500000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=3600
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES PriorityTier=1 GraceTime={grace} MaxTime=60 State=UP
PartitionName=high Nodes={host} PriorityTier=10 MaxTime=60 State=UP
"""

SACCT = """#!{python}
import re, subprocess, sys
print("JobID|State|NodeList")
for job in [word for flag, word in zip(sys.argv, sys.argv[1:]) if flag == "-j"]:
    command = ["scontrol", "show", "job", "--oneliner", job]
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        of = dict(re.findall(r"(\\w+)=(\\S*)", line))
        task = of.get("ArrayTaskId", "").partition("%")[0]
        array = of.get("ArrayJobId", "") + "_" + (task if task.isdigit() else f"[{{task}}]")
        print(array if task else of["JobId"], of["JobState"], of.get("NodeList", ""), sep="|")
"""


def missing() -> str | None:
    """Why no SLURM can be started here; None where one can."""
    if absent := [name for name in DAEMONS if not _daemon(name)]:
        return f"{' and '.join(absent)} not found (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a SLURM of one's own needs root"


def _daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass
class Slurm:
    """A SLURM at work. environment: the variables by which its commands, and submitit, find it."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self.environment}, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def job(self, job: str) -> dict[str, str]:
        """The fields of a job, as `scontrol show job` has them."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "show", "job", "--oneliner", job)))

    def state(self, job: str) -> str:
        """The state of a job: PENDING, RUNNING, COMPLETED, ..."""
        return self.job(job)["JobState"]

    def submit(
        self, *options: str, script: str, cwd: Path, arguments: Sequence[str] = (), **environment: str
    ) -> str:
        """Hand in a batch script, with arguments and variables -> the number of its job."""
        path = cwd / f"script{time.monotonic_ns()}.sbatch"
        path.write_text(script)
        environ = {**os.environ, **self.environment, **environment}
        command = ["sbatch", "--parsable", *options, str(path), *arguments]
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for_requeue(self, job: str, times: int, seconds: float = 180) -> None:
        """Wait until a job has gone back into the queue for the n-th time. It begins anew by itself, once the
        credentials of its last start have expired: 20 s here (cred_expire), 120 s by SLURM's default.
        """
        harness.wait_for(lambda: int(self.job(job)["Restarts"]) >= times, seconds, lambda: self.told(job))

    def told(self, job: str) -> str:
        """What SLURM knows of a job, and the ends of its daemons' logs, for the message of a failed test."""
        return f"{self.ask('scontrol', 'show', 'job', job, check=False)}\n{self.logs()}"

    def clear(self) -> None:
        """End all jobs, and wait until none is left."""
        self.ask("scancel", "--user=root", "--signal=KILL", check=False)
        self.ask("scancel", "--user=root", check=False)
        harness.wait_for(lambda: not self.ask("squeue", "--noheader").strip(), 60)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(
            f"--- {path.name}\n" + path.read_text(errors="replace")[-3000:]
            for path in sorted(self.folder.glob("*.log"))
        )


@contextlib.contextmanager
def started() -> Iterator[Slurm]:
    """Start the daemons, and stop them at the end, with every job that is left. See `missing`."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the name of a socket is short
    daemons: list[subprocess.Popen] = []
    slurm = Slurm(folder, _write_files(folder))
    try:
        _start(slurm, daemons)
        yield slurm
    finally:
        with contextlib.suppress(Exception):
            slurm.clear()
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path) -> dict[str, str]:
    """Write slurm.conf, the key and the stand-in of sacct -> the variables by which they are found."""
    folder.chmod(0o755)
    for name in ("state", "spool", "munge", "bin"):
        (folder / name).mkdir(mode=0o755)
    conf = CONF.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        port=harness.free_port(),
        node_port=harness.free_port(),
        grace=GRACE,
    )
    (folder / "slurm.conf").write_text(conf)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    sacct = folder / "bin/sacct"
    sacct.write_text(SACCT.format(python=sys.executable))
    sacct.chmod(sacct.stat().st_mode | stat.S_IXUSR)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    return {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}


def _start(slurm: Slurm, daemons: list[subprocess.Popen]) -> None:
    """Start munged, slurmctld and slurmd one after another, each once the one before answers."""
    folder = slurm.folder
    munge = [
        f"--socket={folder}/munge/socket",
        f"--key-file={folder}/munge.key",
        f"--pid-file={folder}/munge/pid",
    ]
    munge += [
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munge/seed",
        "--foreground",
        "--force",
    ]
    conf = f"{folder}/slurm.conf"
    commands: list[tuple[list[str], Callable[[], object]]] = [
        (["munged", *munge], (folder / "munge/socket").exists),
        (["slurmctld", "-D", "-f", conf, "-L", f"{folder}/slurmctld.log"], lambda: "UP" in _ping(slurm)),
        (["slurmd", "-D", "-f", conf, "-L", f"{folder}/slurmd.log"], lambda: "idle" in _nodes(slurm)),
    ]
    for command, answers in commands:
        with (folder / f"{command[0]}.terminal.log").open("wb") as terminal:
            daemon = subprocess.Popen(
                [_daemon(command[0]) or command[0], *command[1:]],
                stdout=terminal,
                stderr=terminal,
                env={**os.environ, **slurm.environment},
                start_new_session=True,
            )
        daemons.append(daemon)
        end = time.monotonic() + 30
        while not answers():
            assert daemon.poll() is None and time.monotonic() < end, (
                f"{command[0]} does not start\n{slurm.logs()}"
            )
            time.sleep(0.1)


def _ping(slurm: Slurm) -> str:
    return slurm.ask("scontrol", "ping", check=False)


def _nodes(slurm: Slurm) -> str:
    return slurm.ask("sinfo", "--noheader", "--format=%t", check=False)
