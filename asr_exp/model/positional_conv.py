"""The grouped convolution that tells an encoder of positions (Baevski et al. 2020), over utterances laid end
to end.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

# frames that one row of the matrix product makes: more save copies of the input and multiply more zeros
BLOCK = 4


def convolve_positions(
    x: torch.Tensor,
    conv: torch.nn.Conv1d,
    places: torch.Tensor,
    length: int,
    spread: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """The convolution of each utterance alone, (frames, channels) -> (frames, channels).

    places: (frames,) where the frames lie on a time axis of `length`, with at least a kernel's length of
    zeros around each utterance. spread: `spread_filters(conv)`, where these are at hand and no gradient is
    wanted.
    """
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    length += -length % BLOCK
    spaced = x.new_zeros(length, x.shape[1]).index_copy(0, places, x)
    if spread:
        parts = zip(spaced.chunk(conv.groups, 1), spread, strict=True)
        y = torch.cat(
            [_multiplied(some, matrix, weight.shape[2] // 2, weight.shape[2]) for some, matrix in parts], 1
        )
    elif x.device.type == "cpu":
        y = _Correlation.apply(spaced, weight, conv.groups)
    else:
        # an even kernel makes a frame more: not asked for
        y = F.conv1d(spaced.T, weight, padding=conv.padding, groups=conv.groups).T
    y = y.index_select(0, places)
    return y if bias is None else y + bias.to(y.dtype)


def spread_filters(conv: torch.nn.Conv1d, most: int) -> list[torch.Tensor]:
    """What `convolve_positions` multiplies by, a matrix for each group, to be made anew when the weights
    change.

    None at all where they would take more bytes than `most`.
    """
    weight = conv.weight
    inputs = conv.in_channels // conv.groups
    kernel = conv.kernel_size[0]
    bytes_ = BLOCK * conv.out_channels * (BLOCK + kernel - 1) * inputs * weight.itemsize
    return [_spread(some) for some in weight.chunk(conv.groups)] if bytes_ <= most else []


class _Correlation(torch.autograd.Function):
    """conv1d(padding=kernel // 2) without its last frame, (time, channels), as matrix products.

    Several times as fast on a CPU as the library's grouped convolution, most of all backwards.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        before = weight.shape[2] // 2
        return torch.cat(
            [_correlate(a, w, before) for a, w in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)],
            1,
        )

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        kernel = weight.shape[2]
        before = kernel // 2
        to_input = []
        to_weight = []
        for a, w, g in zip(
            x.chunk(ctx.groups, 1), weight.chunk(ctx.groups), gradient.chunk(ctx.groups, 1), strict=True
        ):
            to_input.append(_correlate(g, w.transpose(0, 1).flip(2), kernel - 1 - before))
            outputs, inputs, _ = w.shape
            spread = g.reshape(-1, BLOCK * outputs).T @ _windows(a, before, kernel)
            spread = spread.view(BLOCK, outputs, BLOCK + kernel - 1, inputs)
            frame, output, tap, one = spread.stride()
            diagonals = spread.as_strided((BLOCK, outputs, kernel, inputs), (frame + tap, output, tap, one))
            to_weight.append(diagonals.sum(0).transpose(1, 2))
        return torch.cat(to_input, 1), torch.cat(to_weight), None


def _correlate(x: torch.Tensor, weight: torch.Tensor, before: int) -> torch.Tensor:
    """y[t] = sum over taps of weight[:, :, tap] @ x[t + tap - before], (time, inputs) -> (time, outputs)."""
    return _multiplied(x, _spread(weight), before, weight.shape[2])


def _multiplied(x: torch.Tensor, matrix: torch.Tensor, before: int, kernel: int) -> torch.Tensor:
    return (_windows(x, before, kernel) @ matrix.T).view(-1, len(matrix) // BLOCK)


def _spread(weight: torch.Tensor) -> torch.Tensor:
    """The matrix that makes a block of frames of its window, (BLOCK * outputs, (BLOCK + kernel - 1) *
    inputs).
    """
    outputs, inputs, kernel = weight.shape
    # The rows of the matrix are the filters of each frame of a block, every one a frame later than the one
    # before.
    padded = weight.new_zeros(outputs, kernel + 2 * (BLOCK - 1), inputs)
    padded[:, BLOCK - 1 : BLOCK - 1 + kernel] = weight.transpose(1, 2)
    width = (BLOCK + kernel - 1) * inputs
    return (
        padded.as_strided((BLOCK, outputs, width), (inputs, padded.stride(0), 1)).flip(0).reshape(-1, width)
    )


def _windows(x: torch.Tensor, before: int, kernel: int) -> torch.Tensor:
    """What each block of frames is computed from, (time, inputs) -> (time / BLOCK, (BLOCK + kernel - 1) *
    inputs), a view of a copy.
    """
    time, inputs = x.shape
    padded = F.pad(x, (0, 0, before, kernel + BLOCK - before))
    return padded.as_strided((time // BLOCK, (BLOCK + kernel - 1) * inputs), (BLOCK * inputs, 1))
