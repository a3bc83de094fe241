"""The faster of torch's two ways to multiply fp32 matrices on a CPU, where it is as exact as the other."""

import torch

from asr_exp.core.errors import UserError

TRUE_FP32 = 1e-5  # bf16 products are off by 1e-3 of the largest, fp32 ones by less than 1e-6


def is_true_fp32() -> bool:
    """Whether a product of fp32 matrices is as near to that in fp64 as fp32 can be, the way torch is
    set now.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return bool(((a @ b).double() - exact).abs().max() < TRUE_FP32 * exact.abs().max())


def use_onednn(wanted: bool) -> None:
    """Have oneDNN multiply fp32 matrices on a CPU, or leave it to BLAS.

    torch calls the first "medium" precision, because oneDNN may then compute in bf16; it does so only on CPUs
    with matrix units for it (Intel AMX). On others the product stays fp32 and is 5 to 25 % faster.
    `is_true_fp32` tells which it is.
    """
    torch.set_float32_matmul_precision("medium" if wanted else "highest")


def choose_precision(asked: str, device: torch.device) -> str:
    """`auto` is bf16 where the device computes it natively, else fp32. Raises UserError for what the device
    cannot do.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if asked == "fp16":
            raise UserError(
                "trainer.precision=fp16 needs a GPU; use trainer.precision=auto, bf16 or fp32 on a CPU."
            )
    if asked == "bf16" and not has_bf16 and device.type == "cuda":
        raise UserError(
            "trainer.precision=bf16, but this GPU does not compute in bf16; use trainer.precision=fp16 or"
            " fp32."
        )
    return ("bf16" if has_bf16 else "fp32") if asked == "auto" else asked
