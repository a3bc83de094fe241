"""The CTC loss on CUDA, without a wait of the host for the device and the same in every run."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from asr_exp.model import ctc_kernels as kernels

LONGEST = 4095  # labels of a transcript: a program has a lane for each, and one more


def ctc(
    logits: torch.Tensor,
    labels: torch.Tensor,
    frames: Sequence[int],
    label_lengths: Sequence[int],
    blank: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The CTC loss of each utterance (Graves et al. 2006), computed in double.

    Args:
        logits: (batch, frames, vocabulary).
        labels: (all labels,) int64, of the utterances one after the other, on the device of the logits.
        frames: the number of valid frames of each utterance.
        label_lengths: the number of labels of each utterance, at most LONGEST.
        blank: the number of the blank.

    Returns:
        the losses, (batch,) in fp32, 0 where an utterance cannot be aligned; and `label_lengths` as a tensor
        on the device of the logits.
    """
    places = [0, *accumulate(label_lengths)][:-1]
    kept = [0, *accumulate(t * n for t, n in zip(frames, label_lengths, strict=True))]
    table = torch.tensor([frames, label_lengths, places, kept[:-1]], pin_memory=logits.is_cuda)
    table = table.to(logits.device, non_blocking=True)
    losses = _CTC.apply(logits, labels, table, kept[-1], max(label_lengths), blank)
    return losses, table[1]


class _CTC(torch.autograd.Function):
    """`table`: (4, batch) int64, of each utterance its frames, its labels, where its labels begin and where
    its forward variables begin. variables: how many forward variables there are; longest: labels of the
    longest transcript.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        labels: torch.Tensor,
        table: torch.Tensor,
        variables: int,
        longest: int,
        blank: int,
    ) -> torch.Tensor:
        logits = logits.contiguous()
        batch, frames, size = logits.shape
        keep = ctx.needs_input_grad[0]
        lse = logits.new_empty(batch, frames, dtype=torch.float64)
        alphas = logits.new_empty(variables if keep else 0, dtype=torch.float64)
        powers = logits.new_empty(variables if keep else 0, dtype=torch.int32)
        exact = logits.new_empty(batch, dtype=torch.float64)
        losses = logits.new_empty(batch, dtype=torch.float32)
        # An exponent of 2 ** 29 at most after the last frame.
        ctx.sizes = (batch, frames * size, frames, size, blank)
        ctx.floor, ctx.block = -float(2**29 // frames), block_of(longest + 1)
        options = {"BLOCK": ctx.block, "num_warps": warps_of(ctx.block)}
        with torch.cuda.device_of(logits):
            tile = min(block_of(size), 1024)
            kernels.log_sum_exp_kernel[(frames, batch)](
                logits, lse, frames * size, frames, size, BLOCK=tile, num_warps=max(1, tile // 256)
            )
            kernels.alpha_kernel[(batch,)](
                logits, lse, labels, table, alphas, powers, exact, losses, *ctx.sizes, ctx.floor,
                KEEP=keep, **options,
            )  # fmt: skip
        ctx.save_for_backward(logits, lse, labels, table, alphas, powers, exact)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, lse, labels, table, alphas, powers, exact = ctx.saved_tensors
        batch, frames, size = logits.shape
        shares = alphas  # are written over the forward variables
        torch.autograd.graph.increment_version(alphas)  # autograd refuses to come here again
        gradient = torch.empty_like(logits)
        options = {"BLOCK": ctx.block, "num_warps": warps_of(ctx.block)}
        with torch.cuda.device_of(logits):
            kernels.beta_kernel[(batch,)](
                logits, lse, labels, table, shares, powers, exact, *ctx.sizes, ctx.floor, **options
            )
            kernels.gradient_kernel[(frames, batch)](
                logits, lse, labels, table, shares, exact, weights.contiguous(), gradient, *ctx.sizes,
                BLOCK=min(block_of(size), 64), LABELS=32, num_warps=2,
            )  # fmt: skip
        return gradient, None, None, None, None, None


def block_of(lanes: int) -> int:
    """The power of two, 32 or more, that has room for so many lanes."""
    return max(32, 1 << (lanes - 1).bit_length())


def warps_of(block: int) -> int:
    return min(max(block // 64, 1), 16)
