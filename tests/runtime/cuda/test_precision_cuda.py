"""The precision of a run and TF32 in a session, by the compute capability that the stand-in has."""

import pytest
from fake_cuda import figures, needs_fake_cuda

pytestmark = needs_fake_cuda

PROGRAM = """
import contextlib
from asr_exp.core.errors import UserError
from asr_exp.runtime.precision import check_scoring_precision, scoring_in

def flags():
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

result = {"before": flags()}
for name, arguments in {"auto": ("auto",), "tf32": ("fp32", True)}.items():
    with started("cuda", *arguments) as runtime:
        result[name] = [runtime.precision, runtime.tf32, *flags()]
        with scoring_in("fp32", runtime.device):
            result[name] += flags()
        if runtime.tf32:
            with scoring_in("tf32", runtime.device):
                result["scored in tf32"] = flags()
result["after"] = flags()
refused = []
for precision in ("fp32", "tf32", "bf16", "fp16"):
    try:
        check_scoring_precision(precision, torch.device("cuda", 0))
    except UserError as why:
        refused.append(precision)
result["refused"] = refused
try:
    with started("cuda", "bf16"):
        result["bf16"] = "taken"
except UserError as why:
    result["bf16"] = str(why)
"""


@pytest.mark.parametrize(
    ("capability", "auto", "refused"),
    [(61, "fp32", ["tf32", "bf16"]), (70, "fp16", ["tf32", "bf16"]), (75, "fp16", ["tf32", "bf16"]),
     (80, "bf16", [])],
)  # fmt: skip
def test_each_generation_gets_what_it_is_good_at(capability, auto, refused):
    """[precision, TF32 in effect, then as torch has it of products and convolutions: in the session, and
    while it scores in fp32].
    """
    got = figures(PROGRAM, capability=capability)
    assert got["auto"] == [auto, False, False, False, False, False]
    assert got["tf32"] == ["fp32", capability >= 80, True, True, False, False]
    assert got.get("scored in tf32", [True, True]) == [True, True]
    assert got["before"] == got["after"] == [False, True]
    assert got["refused"] == refused
    assert ("does not compute in bf16" in got["bf16"]) == bool(refused)
