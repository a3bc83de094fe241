"""The CTC loss of CUDA: its kernels under Triton's interpreter, against torch's loss in double, and compiled
for several cards. None has to be here.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="this build of torch comes without triton")

from asr_exp.model import ctc as ctc_module
from asr_exp.model.triton_launcher import TYPES, compile_kernel

TESTS = Path(__file__).parents[1]
SHORT = ["mixed lengths", "peaky", "minimal", "forbidden", "confident"]
LONG = ["vocabulary of 400", "several tiles", "long", "long and peaky", "long, vocabulary of 400"]


def interpreted(*cases: str) -> dict[str, dict]:
    """What `ctc_cases.compare` says of each case, from a process in which Triton interprets."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "ctc_cases.py", *cases],
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TESTS.parent),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


def assert_exact(found: dict) -> None:
    """The loss to fp32's last digit, and so the gradient, in training as in scoring; 0 where there is no
    alignment, and then no gradient.
    """
    assert found["loss_error"] < 1e-6
    assert found["gradient_error"] < 1e-6
    assert found["scored"] == found["losses"]
    for loss, expected, gradient in zip(
        found["losses"], found["expected"], found["gradient_of"], strict=True
    ):
        assert (loss == 0) == (expected == 0) == (gradient == 0)


def test_short_cases_are_exact():
    found = interpreted(*SHORT, "not a number")
    for case in SHORT:
        assert_exact(found[case])
    assert [loss == 0 for loss in found["minimal"]["losses"]] == [False, True]
    assert [loss == 0 for loss in found["forbidden"]["losses"]] == [True, False]
    assert found["confident"]["losses"][0] < 0.01
    odd = found["not a number"]
    assert [math.isnan(loss) for loss in odd["losses"]] == [True, False]
    assert [math.isnan(gradient) for gradient in odd["gradient_of"]] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG)
def test_long_cases_are_exact(case):
    found = interpreted(case)[case]
    assert found["losses"][0] > 50
    assert_exact(found)


@pytest.fixture
def launches(monkeypatch):
    """A function that records what `ctc` launches for transcripts of at most so many labels."""

    def record(labels: int, vocabulary: int) -> list[tuple]:
        launched: list[tuple] = []

        def launch(kernel, grid, arguments, constants, warps):
            types = [TYPES[a.dtype] if isinstance(a, torch.Tensor) else "i32" for a in arguments]
            launched.append((kernel, types, constants, warps))

        monkeypatch.setattr(ctc_module, "launch", launch)
        logits = torch.zeros(1, 2 * labels + 1, vocabulary, requires_grad=True)
        ctc_module.ctc(logits, torch.zeros(labels, dtype=torch.int64), [2 * labels + 1], [labels], 0)
        return launched

    return record


@pytest.mark.parametrize(("capability", "labels", "vocabulary"), [(80, 10, 32), (90, 300, 400)])
def test_the_kernels_compile_without_atomics(capability, labels, vocabulary, launches, tmp_path, monkeypatch):
    """The order of no sum is left to chance."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launched = launches(labels, vocabulary)
    assert len(launched) == 4
    for kernel, types, constants, warps in launched:
        binary = compile_kernel(kernel, types, constants, warps, capability)
        assert binary.asm["cubin"][:4] == b"\x7fELF"
        assert binary.metadata.shared <= 48 * 1024  # more has to be asked for
        assert f".target sm_{capability}" in binary.asm["ptx"]
        assert not [
            line for line in binary.asm["ptx"].splitlines() if line.strip().startswith(("atom.", "red."))
        ]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 86, 89, 100, 120])
def test_the_largest_kernels_compile_for_every_generation(capability, launches, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, types, constants, warps in launches(ctc_module.LONGEST, 5000):
        binary = compile_kernel(kernel, types, constants, warps, capability)
        assert binary.asm["cubin"][:4] == b"\x7fELF"
        assert binary.metadata.shared <= 48 * 1024


WRONG = """
import torch
from asr_exp.model import ctc as module, loss
right = module.ctc
for factor in (1.0, 1.001):
    module.ctc = lambda *a: (right(*a)[0] * factor, right(*a)[1])
    try:
        loss._compare_with_torch(torch.device("cpu"))
        print("equal")
    except ArithmeticError:
        print("not equal")
"""


@pytest.mark.slow
def test_kernels_that_are_wrong_on_a_device_are_not_used():
    """Their first use is compared with torch's own loss and gradient."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRONG],
        env={**environment, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["equal", "not equal"]
