"""The card, and everything that its figures depend on."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import torch

from asr_exp.runs.environment import processor
from benchmarks.cuda.parts import Bench, Row

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "numpy",
    "hydra-core",
    "rapidfuzz",
    "soundfile",
    "soxr",
)
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu,driver_version"
PRODUCT = 8192  # rows and columns of the matrices


def run(bench: Bench) -> Iterator[Row]:
    """Rows {what, found}."""
    for name, found in {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "Python": platform.python_version(),
        **_versions(),
    }.items():
        yield {"what": name, "found": found}
    if bench.device == "cuda":
        for name, found in _card().items():
            yield {"what": name, "found": found}
        for name, dtype in (("bf16", torch.bfloat16), ("fp32, TF32 off", torch.float32)):
            rate = _products(dtype, 512 if bench.quick else PRODUCT)
            yield {"what": f"matrix products, {name}, TFLOP/s", "found": round(rate / 1e12, 1)}
        for name, found in _clocks().items():
            yield {"what": f"{name}, just after", "found": found}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _card() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    cudnn = torch.backends.cudnn.version()
    found: dict[str, Any] = {
        "card": properties.name,
        "compute capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "multiprocessors": properties.multi_processor_count,
        "memory of the card, GiB": round(total / 2**30, 1),
        "of it free": round(free / 2**30, 1),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}" if cudnn else None,
        "matmul precision, cuDNN's TF32": (
            f"{torch.get_float32_matmul_precision()}, {torch.backends.cudnn.allow_tf32}"
        ),
    }
    with contextlib.suppress(Exception):  # a build without it
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def _clocks() -> dict[str, str]:
    """What nvidia-smi says; nothing where it is not there."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        values = done.stdout.splitlines()[0].split(", ")
        return dict(zip(CLOCKS.split(","), values, strict=True))
    return {}


def _products(dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of matrix products of random numbers: the ceiling of all else."""
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2.0 * size**3 / (time.perf_counter() - began)
