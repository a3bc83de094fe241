"""The content of environment.json: the machine, the versions, the command and the commit of the code."""

import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed import is_nccl_available

from asr_exp.runtime.cores import usable_cores
from asr_exp.runtime.distributed import Runtime
from asr_exp.runtime.gpus import choose_device

CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that can change a result."""
    names = (
        "asr_exp",
        "torch",
        "torchaudio",
        "transformers",
        "datasets",
        "numpy",
        "soundfile",
        "soxr",
        "rapidfuzz",
        "hydra-core",
        "flashlight-text",
    )
    installed = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def environment(runtime: Runtime) -> dict[str, Any]:
    """The machine, device, software and command of this process, as environment.json has them."""
    on_cuda = runtime.device.type == "cuda"
    return {
        "command": ["python", "-m", "asr_exp", *sys.argv[1:]],
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(runtime.device) if on_cuda else processor(),
        "devices": runtime.world,
        "precision": runtime.precision,
        "deterministic": not on_cuda or torch.are_deterministic_algorithms_enabled(),
        "tf32": runtime.tf32,
        "cpu_count": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if on_cuda else None,
        **({"gpu": _gpu(runtime.device)} if on_cuda else {}),
        "git_commit": _commit(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "versions": versions(),
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """The GPUs of this machine that the run works on, and the software of NVIDIA's that it does it with."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    devices = [device] if ranks == 1 else [choose_device("cuda", rank, rank, ranks) for rank in range(ranks)]
    properties = [torch.cuda.get_device_properties(one) for one in devices]
    return {
        "devices": [str(one) for one in devices],
        "names": [one.name for one in properties],
        "memory_gib": [round(one.total_memory / 2**30, 1) for one in properties],
        "capability": [f"{one.major}.{one.minor}" for one in properties],
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "driver": _driver(),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if is_nccl_available() else None,
    }


def _driver() -> str | None:
    """The version of NVIDIA's kernel driver; None where the system does not say."""
    with contextlib.suppress(OSError):
        if found := re.search(r"\s(\d+\.\d[\d.]*)\s", DRIVER.read_text(encoding="utf-8", errors="replace")):
            return found[1]
    with contextlib.suppress(OSError):
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        return next(iter(done.stdout.split()), None) if done.returncode == 0 else None
    return None


def processor() -> str:
    """The name of the CPU, or its architecture where the system does not give the name."""
    with contextlib.suppress(OSError):
        fields = (
            line.partition(":") for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        if name := next((value.strip() for key, _, value in fields if key.strip() == "model name"), ""):
            return name
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this code is in; None where it is in none."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None
    return None
