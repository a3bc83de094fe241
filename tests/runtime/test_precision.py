"""The precision that `auto` is, also where torch lacks the operator that knows."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from asr_exp.core.errors import UserError
from asr_exp.runtime.precision import (
    check_scoring_precision,
    choose_precision,
    cpu_has_bf16,
    fp32_products,
    scoring_in,
)

CPU = torch.device("cpu")


def mkldnn(monkeypatch, **operators):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))


def test_this_build_of_torch_has_the_operator():
    """A canary: a release that takes it away would make every `auto` on a CPU fp32, silently."""
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_the_cpu_computes_in_it(monkeypatch, native):
    mkldnn(monkeypatch, _is_mkldnn_bf16_supported=lambda: native)
    assert cpu_has_bf16() is native
    assert choose_precision("auto", CPU) == ("bf16" if native else "fp32")


def test_without_the_operator_auto_is_fp32(monkeypatch):
    mkldnn(monkeypatch)  # as in builds for macOS
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="needs a GPU"):
        choose_precision("fp16", CPU)


# ------------------------------------------------------------------------------------------------------------
# TF32, and the precision of scores


def test_of_fp32_products_on_a_gpu_one_policy_holds_and_ends():
    """Through torch's older settings alone; reading the newer ones shows what they stand for."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for tf32, name in ((False, "ieee"), (True, "tf32")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with fp32_products(tf32):
                assert matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
                assert (matmul.fp32_precision == name) and (conv.fp32_precision == "tf32") is tf32
                with torch.backends.cudnn.flags(enabled=False):
                    pass
                assert torch.backends.cudnn.allow_tf32 is tf32
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(("precision", "words"), [("tf32", "needs a GPU"), ("fp16", "needs a GPU")])
def test_a_cpu_does_not_score_in_what_it_lacks(precision, words):
    with pytest.raises(UserError, match=f"evaluate.precision={precision} {words}.*fp32 or bf16"):
        check_scoring_precision(precision, CPU)


def test_a_cpu_scores_in_bf16_by_autocast_in_that_thread_alone():
    check_scoring_precision("bf16", CPU)
    a = torch.randn(8, 8)
    with scoring_in("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
    with scoring_in("fp32", CPU):
        assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32
