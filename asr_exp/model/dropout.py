"""Dropout on a CPU, where torch's own draws its random numbers so slowly that they take a fifth of a training
step.

Only the source of the random bits differs: 15 bits an element from numpy's SFC64, seeded from torch's
generator, so that a seed decides the masks and a recomputed activation (gradient checkpointing) gets the mask
it had.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STEPS = 2**15  # a probability is rounded to so many parts
# integers of the same size
WHOLE = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def negative_where_dropped(count: int, probability: float) -> tuple[torch.Tensor, float]:
    """Random int16 numbers, shape (count,), each negative with this probability; and the factor that keeps
    the mean as it was.
    """
    parts = round(probability * STEPS)
    source = np.random.SFC64(int(torch.randint(2**62, ())))
    drawn = torch.from_numpy(source.random_raw(-(-count // 4)).view(np.int16))[:count]
    return drawn.bitwise_right_shift_(1).sub_(parts - STEPS // 2), STEPS / (STEPS - parts)


class _Dropout(torch.autograd.Function):
    """Zeroes by bitwise and: no comparison, no product with a mask."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, probability: float) -> torch.Tensor:
        whole = WHOLE[x.dtype]
        drawn, ctx.factor = negative_where_dropped(x.numel(), probability)
        keep = drawn.bitwise_right_shift_(15).bitwise_not_().to(whole).view(x.shape)  # all bits or none
        ctx.save_for_backward(keep)
        return x.contiguous().view(whole).bitwise_and(keep).view(x.dtype).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return (
            gradient.contiguous().view(keep.dtype).bitwise_and(keep).view(gradient.dtype).mul_(ctx.factor),
            None,
        )


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero elements with a probability and scale up the others (Srivastava et al. 2014), in training mode
    only.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or x.dtype not in WHOLE or round(probability * STEPS) == STEPS:
        return F.dropout(x, probability, training)
    return _Dropout.apply(x, probability)


def speed_up_dropout(network: nn.Module) -> None:
    """Have the network's dropout modules, on this instance only, call `dropout`."""
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.forward = lambda x, module=module: dropout(x, module.p, module.training)  # type: ignore[method-assign,misc]
