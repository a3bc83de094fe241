"""The precision of a run and of its scores, TF32 on a GPU, and the faster of torch's two ways to multiply
fp32 matrices on a CPU, where it is as exact as the other.

All of it is set by torch's older settings (`set_float32_matmul_precision`, `cudnn.allow_tf32`): torch refuses
a program that mixes them with the newer `fp32_precision`, and `torch.backends.cudnn.flags` uses them.
"""

import contextlib
from collections.abc import Iterator

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
    """The precision of a run: `auto` is bf16 where the device computes in it natively, fp16 on a GPU whose
    tensor cores know fp16 alone (Volta, Turing: compute capability 7.x), else fp32.

    Raises UserError for a precision that the device does not have.
    """
    if device.type == "cuda":
        has_bf16 = gpu_has_bf16(device)
        fallback = "fp16" if torch.cuda.get_device_capability(device)[0] == 7 else "fp32"
    else:
        has_bf16, fallback = cpu_has_bf16(), "fp32"
        if precision == "fp16":
            raise UserError(
                "trainer.precision=fp16 needs a GPU; use trainer.precision=auto, bf16 or fp32 on a CPU."
            )
    if precision == "bf16" and not has_bf16 and device.type == "cuda":
        raise UserError(
            "trainer.precision=bf16, but this GPU does not compute in bf16; use trainer.precision=fp16 or"
            " fp32."
        )
    return ("bf16" if has_bf16 else fallback) if precision == "auto" else precision


def gpu_has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16 natively."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def has_tf32(device: torch.device) -> bool:
    """Whether a device has TF32: NVIDIA's GPUs from compute capability 8.0 on (Ampere)."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device)[0] >= 8
    )


@contextlib.contextmanager
def fp32_products(tf32: bool) -> Iterator[None]:
    """While it lasts, a GPU computes matrix products and cuDNN's convolutions of fp32 tensors in TF32 (10
    bits of mantissa), or in IEEE fp32, convolutions by the same algorithm each time. By torch's defaults
    products are IEEE, and convolutions TF32.
    """
    cudnn = torch.backends.cudnn
    products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    deterministic = cudnn.deterministic
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32
    cudnn.deterministic = deterministic or not tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = convolutions
        cudnn.deterministic = deterministic


def described(precision: str, tf32: bool) -> str:
    """'fp32', 'fp32 (TF32)', 'bf16': a precision, and whether what is left in fp32 is computed in TF32."""
    return f"{precision} (TF32)" if tf32 else precision


# ------------------------------------------------------------------------------------------------------------
# without gradients

DTYPES_OF_SCORING = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_scoring_precision(precision: str, device: torch.device) -> None:
    """Raise UserError where a device does not have the precision that `evaluate.precision` asks for."""
    if device.type != "cuda" and precision in ("tf32", "fp16"):
        raise UserError(
            f"evaluate.precision={precision} needs a GPU; use evaluate.precision=fp32 or bf16 on a CPU."
        )
    if precision == "tf32" and not has_tf32(device):
        raise UserError(
            "evaluate.precision=tf32, but this GPU has no TF32; use evaluate.precision=fp32 or fp16."
        )
    if precision == "bf16" and device.type == "cuda" and not gpu_has_bf16(device):
        raise UserError(
            "evaluate.precision=bf16, but this GPU does not compute in bf16; use evaluate.precision=fp16 or"
            " fp32."
        )


@contextlib.contextmanager
def scoring_in(precision: str, device: torch.device) -> Iterator[None]:
    """While it lasts, this thread's forward passes compute in a precision of `evaluate.precision`: fp32 (on a
    GPU IEEE fp32, whatever `trainer.tf32` is), tf32, bf16 or fp16 (both by autocast).
    """
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(fp32_products(precision == "tf32"))
        if dtype := DTYPES_OF_SCORING.get(precision):
            stack.enter_context(torch.autocast(device.type, dtype=dtype))
        yield
