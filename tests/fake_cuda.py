"""Programs and commands on a CUDA device that is not there: torch's own CUDA build over a stand-in for the
driver, which counts kernels and does not run them.

What they compute means nothing. Which kernels are taken, how many are launched, what waits for the device,
which copies are made and how much memory is allocated are those of a real device.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT.parent / "shared" / "fakecuda" / "fakecuda.sh"


def missing() -> str:
    """Why no program can run on the stand-in here; '' where it can."""
    if not STAND_IN.is_file():
        return "../shared/fakecuda is not there"
    if not torch.version.cuda:
        return f"torch {torch.__version__} has no CUDA in it"
    lacking = [name for name in ("gcc", "g++") if not shutil.which(name)]
    return f"no {lacking[0]} to build the stand-in" if lacking else ""


needs_fake_cuda = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


@cache
def _build() -> None:
    """Build the stand-in, which its script does on first use, in one process at a time."""
    place = Path(os.environ.get("FAKE_CUDA_BUILD") or Path.home() / ".cache" / "fakecuda")
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".build.lock"):
        subprocess.run([STAND_IN, "true"], env=_environment(), check=True, capture_output=True)


def _environment(**more: Any) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {**os.environ, "PATH": path, "PYTHONPATH": places, **{k: str(v) for k, v in more.items()}}


def on_fake_cuda(
    *arguments: Any,
    devices: int = 1,
    gigabytes: float = 80,
    capability: int = 90,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 300,
    **environment: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` on the stand-in.

    Args:
        arguments: of Python, such as "-m", "asr_exp", ...
        devices: how many devices there are.
        gigabytes: memory of each, in GiB.
        capability: compute capability, 90 for 9.0.
        cwd: where it runs.
        check: fail the test, with the end of its stderr, where the exit status is not 0.
        timeout: seconds.
        environment: more variables. FAKE_CUDA_KEEP=1: copies back from the device give what is there, not
            zeros. FAKE_CUDA_LOG=FILE: counts at the end.
    """
    _build()
    done = subprocess.run(
        [STAND_IN, sys.executable, *map(str, arguments)],
        cwd=cwd or ROOT,
        env=_environment(
            FAKE_CUDA_DEVICES=devices, FAKE_CUDA_GB=gigabytes, FAKE_CUDA_CC=capability, **environment
        ),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-4000:]}"
    return done


def figures(program: str, **options: Any) -> Any:
    """Run a program on the stand-in -> what it has assigned to `result`, which must be JSON. The names of
    fake_cuda_probe.py are imported; options: of `on_fake_cuda`.
    """
    whole = f"from fake_cuda_probe import *\n{program}\nprint('\\n' + json.dumps(result))\n"
    return json.loads(on_fake_cuda("-c", whole, **options).stdout.splitlines()[-1])
