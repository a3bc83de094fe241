"""The precision that `auto` is, also where torch lacks the operator that knows."""

from types import SimpleNamespace

import pytest
import torch

from asr_exp.core.errors import UserError
from asr_exp.runtime.precision import choose_precision, cpu_has_bf16

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
