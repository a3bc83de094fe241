"""The cores that a process may use: by its affinity mask, by the quota of its cgroup, by SLURM."""

import os
import subprocess
import sys

import pytest
from harness import environment

from asr_exp.runtime import cores
from asr_exp.runtime.cores import limit_threads, threads_of_rank, usable_cores


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight cores, outside of SLURM."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(cores, "_threads_limited", False)
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    # what the test leaves there is taken away again
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")


def tree(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 8),
        # the quota of the job holds for the step that is in it
        (
            {
                "proc/self/cgroup": "0::/job_7/step_0/task_1\n",
                "sys/fs/cgroup/job_7/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/job_7/step_0/cpu.max": "600000 100000\n",
                "sys/fs/cgroup/job_8/cpu.max": "100000 100000\n",
            },
            4,
        ),
        # both versions at once, as systemd calls hybrid: the controller is in version 1
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/ab\n2:cpuset:/docker/ab\n0::/docker/ab\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        # in a container the path is the host's, and the mount is the container's own cgroup
        (
            {
                "proc/self/cgroup": "1:cpu:/docker/ab\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
    ],
)
def test_the_quota_of_the_cgroup(files, expected, eight, tmp_path):
    assert usable_cores(tree(tmp_path, **files)) == expected


def test_what_slurm_has_allotted(eight, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert usable_cores(tmp_path) == 6  # the script of a job of two tasks
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert usable_cores(tmp_path) == 3  # one of the tasks
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert usable_cores(tmp_path) == 6


def test_threads_follow_the_quota_and_are_shared_by_the_ranks(eight, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ and threads_of_rank(2) == "4"
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "4" and threads_of_rank(2) == "2" and threads_of_rank(9) == "1"


def test_what_the_user_has_set_stays(eight, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7" and threads_of_rank(2) == "7"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_the_affinity_mask_of_a_process():
    one = min(os.sched_getaffinity(0))
    found = subprocess.run(
        [sys.executable, "-c", "from asr_exp.runtime.cores import usable_cores; print(usable_cores())"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )
    assert found.stdout.strip() == "1"
