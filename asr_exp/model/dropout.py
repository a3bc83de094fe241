"""Dropout on a CPU, where torch draws its random numbers so slowly that they take a fifth of a training step.

Only the source of the random bits differs: 15 bits an element from numpy's SFC64, seeded from torch's
generator. So a seed decides what is dropped, and an activation that gradient checkpointing computes again
gets the same elements dropped.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from asr_exp.model.drawn_rows import DrawnRows
from asr_exp.model.pass_context import drawn_rows

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
    def forward(ctx: Any, x: torch.Tensor, probability: float, rows: DrawnRows | None) -> torch.Tensor:
        integer = INTEGERS[x.dtype]
        if rows is None:
            drawn, ctx.factor = negative_where_dropped(x.numel(), probability)
        else:
            width = x.numel() // (rows.count + rows.tail)
            drawn, ctx.factor = negative_where_dropped((rows.first + rows.count) * width, probability)
            drawn = F.pad(drawn[rows.first * width :], (0, rows.tail * width))
        keep = drawn.bitwise_right_shift_(15).bitwise_not_().to(integer).view(x.shape)  # all bits or none
        ctx.save_for_backward(keep)
        return x.contiguous().view(integer).bitwise_and(keep).view(x.dtype).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return (
            gradient.contiguous().view(keep.dtype).bitwise_and(keep).view(gradient.dtype).mul_(ctx.factor),
            None,
            None,
        )


def dropout(
    x: torch.Tensor, probability: float, training: bool, rows: DrawnRows | None = None
) -> torch.Tensor:
    """Zero each element with a probability and scale the others up (Srivastava et al. 2014), in training mode
    only.

    x: of any shape. rows: where x is a part of a larger tensor; None: as the pass says that is running.
    """
    if not training or probability == 0.0:
        return x
    rows = rows or drawn_rows()
    if _drawn_on_cpu(x.device, x.dtype, probability):
        return _Dropout.apply(x, probability, rows)
    if rows is None or probability == 1.0:
        return F.dropout(x, probability, training)
    width = x.numel() // (rows.count + rows.tail)
    kept = F.dropout(x.new_ones(rows.total * width), probability) != 0
    kept = F.pad(kept[rows.first * width : (rows.first + rows.count) * width], (0, rows.tail * width))
    return torch.where(kept.view(x.shape), x * (1 / (1 - probability)), 0)


def skip_dropout(count: int, probability: float, like: torch.Tensor) -> None:
    """Draw what `dropout` draws for a tensor of `count` elements with the device and dtype of `like`."""
    if probability == 0.0:
        return
    if _drawn_on_cpu(like.device, like.dtype, probability):
        torch.randint(2**62, ())
    else:
        F.dropout(like.new_ones(count), probability)


def _drawn_on_cpu(device: torch.device, dtype: torch.dtype, probability: float) -> bool:
    """Whether the random bits come from numpy."""
    return device.type == "cpu" and dtype in INTEGERS and round(probability * PARTS) != PARTS
