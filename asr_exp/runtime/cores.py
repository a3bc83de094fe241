"""How many processor cores this process may use, which on a cluster is fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Where cgroups are mounted, below the root of the file system: version 2, alone or beside version 1, and the
# controller `cpu` of version 1, which may share its mount.
V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
V1 = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")

_threads_limited = False


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use, at least 1.

    That is the least of: the cores of its affinity mask (taskset, docker's --cpuset-cpus, SLURM's task
    affinity), the CPU quota of its cgroup, rounded up (docker's --cpus, Kubernetes' limits), and the CPUs
    that SLURM has allotted to it, which SLURM enforces on some clusters and merely counts on others.

    root: the folder that holds `proc` and `sys`.
    """
    limits = [_affinity(), *(math.ceil(quota) for quota in _quotas(root)), *_allotted_by_slurm()]
    return max(1, min(limits))


def limit_threads() -> None:
    """Have torch, which is imported later, use no more threads than there are usable cores. torch itself goes
    by the affinity mask, and knows nothing of quotas.

    Nothing is changed where OMP_NUM_THREADS is set, or where only the mask limits the cores.
    """
    global _threads_limited
    if "OMP_NUM_THREADS" not in os.environ and (cores := usable_cores()) < _affinity():
        os.environ["OMP_NUM_THREADS"] = str(cores)
        _threads_limited = True


def threads_of_rank(ranks: int) -> str:
    """OMP_NUM_THREADS of each of the ranks on this machine: the user's, or an equal share of the cores."""
    given = None if _threads_limited else os.environ.get("OMP_NUM_THREADS")
    return given or str(max(1, usable_cores() // ranks))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _allotted_by_slurm() -> Iterator[int]:
    """The CPUs of this machine that SLURM has allotted to the job or step, and within a step to each task."""
    names = ["SLURM_CPUS_ON_NODE"]
    if "SLURM_STEP_ID" in os.environ:  # without it the process is the job's script, which has all tasks' CPUs
        names.append("SLURM_CPUS_PER_TASK")
    for name in names:
        if (value := os.environ.get(name, "")).isdigit() and int(value):
            yield int(value)


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of the cgroups that this process is in, from its own up to the root."""
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in V1 if controllers else V2:
            # In a container the path may be the host's; the container's own cgroup is then the mount itself.
            place = root / mount
            for folder in (
                place.joinpath(*Path(path).parts[1:n]) for n in range(len(Path(path).parts), 0, -1)
            ):
                with suppress(OSError, ValueError):
                    if controllers:
                        quota, period = (
                            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
                        )
                    else:
                        quota, period = map(int, (folder / "cpu.max").read_text().split())
                    if quota > 0 and period > 0:
                        yield quota / period
