"""The content of environment.json: the machine, the versions, the command and the commit of the code."""

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from asr_exp.runtime.cores import usable_cores
from asr_exp.runtime.distributed import Runtime

CPUINFO = Path("/proc/cpuinfo")


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
        "cpu_count": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if on_cuda else None,
        "git_commit": _commit(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "versions": versions(),
    }


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
