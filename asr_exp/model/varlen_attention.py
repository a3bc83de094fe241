"""Attention over utterances laid end to end, by torch's kernels for sequences of varying lengths.

The kernels are called directly. `torch.nn.attention.varlen` has no dropout, and a NestedTensor spends several
times as long in Python as the GPU spends in the kernel.
"""

from functools import cache

import torch
import torch.nn.functional as F

HEAD_MULTIPLE = 8  # channels of a head: what the kernels take
MAX_FLASH_HEAD = 256


def attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    dropout_rate: float,
    scale: float,
) -> torch.Tensor | None:
    """Self-attention of each sequence, by the flash kernel (Dao 2023) in bf16 and fp16 on Ampere and later,
    and by the memory-efficient kernel (Rabe and Staats 2021) in fp32 and on older cards.

    Neither waits for the GPU, and neither keeps anything of the square of a length.

    Args:
        query, key, value: (frames, heads, channels of a head).
        offsets: (sequences + 1,) int32, the first frame of each sequence, and the end.
        longest: at least the frames of the longest sequence.
        dropout_rate: probability with which attention weights are zeroed.
        scale: factor of the scores.

    Returns:
        The shape of `query`; None where no kernel takes this device and dtype.
    """
    size = query.shape[2]
    kernel = varlen_kernel(query.device, query.dtype, size)
    if kernel is None:
        return None
    if more := -size % HEAD_MULTIPLE:  # channels of zeros change no score, and give outputs of zero
        query, key, value = (F.pad(x, (0, more)) for x in (query, key, value))
    lengths = (offsets, offsets, longest, longest, dropout_rate)
    if kernel == "flash":
        causal = return_mask = False
        out, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *lengths, causal, return_mask, scale=scale
        )
    else:
        no_bias, no_mask = None, 0
        for_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        packed = (query[None], key[None], value[None])
        out, *_ = torch.ops.aten._efficient_attention_forward(
            *packed, no_bias, *lengths, no_mask, for_gradient, scale=scale
        )
        out = out[0]
    return out[..., :size]


def varlen_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """The kernel that takes heads of so many channels: `flash`, `efficient`, or None.

    `torch.nn.attention.sdpa_kernel` and torch.backends.cuda switch kernels off here as they do for torch's
    own attention.
    """
    if device.type != "cuda":
        return None
    backends, ampere = torch.backends.cuda, _capability(device) >= (8, 0)
    half = dtype == torch.float16 or dtype == torch.bfloat16 and ampere
    if (
        half
        and ampere
        and head_size <= MAX_FLASH_HEAD
        and backends.is_flash_attention_available()
        and backends.flash_sdp_enabled()
    ):
        return "flash"
    return "efficient" if (half or dtype == torch.float32) and backends.mem_efficient_sdp_enabled() else None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
