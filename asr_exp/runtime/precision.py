"""The precision of a run, and the faster of torch's two ways to multiply fp32 matrices on a CPU, where it is
as exact as the other.
"""

import torch

from asr_exp.core.errors import UserError

# Of the largest element of a product: bf16 products are off by 1e-3, fp32 ones by less than 1e-6.
TRUE_FP32 = 1e-5


def is_true_fp32() -> bool:
    """Whether a product of fp32 matrices, with torch's present settings, is as near to the fp64 product as
    fp32 can be.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return bool(((a @ b).double() - exact).abs().max() < TRUE_FP32 * exact.abs().max())


def use_onednn(enabled: bool) -> None:
    """Have oneDNN multiply fp32 matrices on a CPU, or leave it to BLAS.

    torch calls the first "medium" precision, because oneDNN may then compute in bf16; it does so only on CPUs
    with matrix units for it (Intel AMX). On others the product stays fp32 and is 5 to 25 % faster.
    `is_true_fp32` says which of the two it is.
    """
    torch.set_float32_matmul_precision("medium" if enabled else "highest")


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bf16 natively.

    torch's private operator `_is_mkldnn_bf16_supported` says so, as seen in torch 2.14. A build
    without oneDNN, such as those for macOS, may lack it: then the answer is no, and `auto` is fp32.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision of a run: `auto` is bf16 where the device computes in it natively, else fp32.

    Raises UserError for a precision that the device does not have.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = cpu_has_bf16()
        if precision == "fp16":
            raise UserError(
                "trainer.precision=fp16 needs a GPU; use trainer.precision=auto, bf16 or fp32 on a CPU."
            )
    if precision == "bf16" and not has_bf16 and device.type == "cuda":
        raise UserError(
            "trainer.precision=bf16, but this GPU does not compute in bf16; use trainer.precision=fp16 or"
            " fp32."
        )
    return ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision
