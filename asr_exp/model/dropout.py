"""Dropout on a CPU, where torch draws its random numbers so slowly that they take a fifth of a training step.

Only the source of the random bits differs: 15 bits an element from numpy's SFC64, seeded from torch's
generator. So a seed decides what is dropped, and an activation that gradient checkpointing computes again
gets the same elements dropped.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

PARTS = 2**15  # a probability is rounded to a multiple of 1 / PARTS
# integers of the same size as a float
INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def negative_where_dropped(count: int, probability: float) -> tuple[torch.Tensor, float]:
    """Random int16 numbers, (count,), each negative with this probability; and the factor for the elements
    that are kept, which leaves the mean as it was.
    """
    dropped_parts = round(probability * PARTS)
    source = np.random.SFC64(int(torch.randint(2**62, ())))
    drawn = torch.from_numpy(source.random_raw(-(-count // 4)).view(np.int16))[:count]
    return drawn.bitwise_right_shift_(1).sub_(dropped_parts - PARTS // 2), PARTS / (PARTS - dropped_parts)


class _Dropout(torch.autograd.Function):
    """Dropout by a bitwise and, without a comparison or a product with a mask."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, probability: float) -> torch.Tensor:
        integer = INTEGERS[x.dtype]
        drawn, ctx.factor = negative_where_dropped(x.numel(), probability)
        keep = drawn.bitwise_right_shift_(15).bitwise_not_().to(integer).view(x.shape)  # all bits or none
        ctx.save_for_backward(keep)
        return x.contiguous().view(integer).bitwise_and(keep).view(x.dtype).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return (
            gradient.contiguous().view(keep.dtype).bitwise_and(keep).view(gradient.dtype).mul_(ctx.factor),
            None,
        )


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero each element with a probability and scale the others up (Srivastava et al. 2014), in training mode
    only. x: of any shape.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or x.dtype not in INTEGERS or round(probability * PARTS) == PARTS:
        return F.dropout(x, probability, training)
    return _Dropout.apply(x, probability)
