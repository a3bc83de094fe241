"""Memory of a device: in use, available, and the peak during a block of code."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SAMPLING_SECONDS = 0.003  # between two readings of a process's memory


def used_memory(device: torch.device) -> int:
    """Bytes now in use: allocated on a GPU; resident memory of this process on a CPU, 0 where the system does
    not say (it has no /proc).
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def available_memory(device: torch.device) -> int:
    """Bytes that this process can use, including those it uses now: free memory of the GPU, or of the machine
    within the limit of its control group (cgroup v2).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = next(
        int(line.split()[1]) * 1024
        for line in meminfo.read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    limit, current = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and current.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(current.read_text()))
    return free + used_memory(device)


class Peak:
    """The peak of `track_peak`, complete when its block has ended. reserved: by the allocator of a GPU, which
    keeps more than it hands out; 0 on a CPU.
    """

    bytes = 0
    reserved = 0


@contextmanager
def track_peak(device: torch.device) -> Iterator[Peak]:
    """Measure the most memory in use while the block runs: by the allocator of a GPU, and on a CPU by
    sampling.
    """
    peak = Peak()
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLING_SECONDS):
            peak.bytes = max(peak.bytes, used_memory(device))

    sampler = threading.Thread(target=sample, daemon=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        sampler.start()
    try:
        yield peak
    finally:
        done.set()
        if device.type == "cuda":
            peak.bytes = torch.cuda.max_memory_allocated(device)
            peak.reserved = torch.cuda.max_memory_reserved(device)
        else:
            sampler.join()
            peak.bytes = max(peak.bytes, used_memory(device))
