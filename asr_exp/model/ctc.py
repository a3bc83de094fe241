"""The CTC loss on CUDA, without a wait of the host for the device and the same in every run."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from asr_exp.model import ctc_kernels as kernels
from asr_exp.model.triton_launcher import launch

LONGEST = 4095  # labels of a transcript: a program has a lane for each, and one more


def ctc(
    logits: torch.Tensor,
    labels: torch.Tensor,
    frames: Sequence[int],
    label_lengths: Sequence[int],
    blank: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The CTC loss of each utterance (Graves et al. 2006), computed in double.

    A frame's probability of a label below 2 ** (-2 ** 29 / frames), for 1500 frames exp(-248000), counts as
    0.

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
    return _CTC.apply(logits, labels, table, kept[-1], max(label_lengths), blank), table[1]


class _CTC(torch.autograd.Function):
    """The gradient is computed with the loss: from then on a tensor of the size of the logits is kept, and
    the forward variables, of which there are more, are not.
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
        """table: (4, batch) int64, of each utterance its frames, its labels, where its labels begin, and
        where its forward variables begin; variables: how many there are of those; longest: labels of the
        longest transcript.
        """
        logits = logits.contiguous()
        batch, frames, size = logits.shape
        training = ctx.needs_input_grad[0]
        lse = logits.new_empty(batch, frames, dtype=torch.float64)
        tile = min(_power_of_two(size), 1024)
        launch(kernels.log_sum_exp_kernel, (frames, batch), (logits, lse, size), {"BLOCK": tile}, tile // 32)
        alphas = logits.new_empty(variables if training else 0, dtype=torch.float64)
        powers = logits.new_empty(variables if training else 0, dtype=torch.int32)
        exact = logits.new_empty(batch, dtype=torch.float64)
        losses = logits.new_empty(batch, dtype=torch.float32)
        floor = -(2**29 // frames)  # an exponent stays above -2 ** 29 up to the last frame
        block = _power_of_two(longest + 1)
        inputs, numbers = (logits, lse, labels, table), (frames, size, blank)
        launch(
            kernels.alpha_kernel,
            (batch,),
            (*inputs, alphas, powers, exact, losses, *numbers, floor),
            {"KEEP": training, "BLOCK": block},
            min(max(block // 64, 1), 16),
        )
        if training:
            launch(
                kernels.beta_kernel,
                (batch,),
                (*inputs, alphas, powers, exact, *numbers, floor),
                {"BLOCK": block},
                min(max(block // 64, 1), 16),
            )
            gradient = torch.empty_like(logits)
            launch(
                kernels.gradient_kernel,
                (frames, batch),
                (*inputs, alphas, exact, gradient, *numbers),
                {"BLOCK": min(_power_of_two(size), 64), "LABELS": 32},
                2,
            )
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * weights[:, None, None].to(gradient.dtype), None, None, None, None, None


def _power_of_two(lanes: int) -> int:
    """The power of two, 32 or more, that has room for so many lanes."""
    return max(32, 1 << (lanes - 1).bit_length())
