"""The grouped convolution that encodes positions (Baevski et al. 2020), over utterances laid end to end."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

# Frames that one row of the matrix product computes. More of them save copies of the input, and multiply more
# zeros.
FRAMES_PER_ROW = 4


def convolve_positions(
    x: torch.Tensor,
    conv: torch.nn.Conv1d,
    places: torch.Tensor,
    length: int,
    filters: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """The convolution of each utterance alone, without the extra frame that an even kernel makes.

    Args:
        x: (frames, channels), the utterances laid end to end.
        conv: a grouped convolution with padding=kernel // 2.
        places: (frames,) where the frames lie on a time axis with at least a kernel's length of zeros around
            each utterance.
        length: frames of that time axis.
        filters: `block_filters(conv, ...)`, where they are kept and no gradient is needed.

    Returns:
        (frames, channels).
    """
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    length += -length % FRAMES_PER_ROW
    spaced = x.new_zeros(length, x.shape[1]).index_copy(0, places, x)
    if filters:
        kernel = weight.shape[2]
        groups = zip(spaced.chunk(conv.groups, 1), filters, strict=True)
        y = torch.cat([_multiply(part, matrix, kernel // 2, kernel) for part, matrix in groups], 1)
    elif x.device.type == "cpu":
        y = _Correlation.apply(spaced, weight, conv.groups)
    else:
        y = F.conv1d(spaced.T, weight, padding=conv.padding, groups=conv.groups).T
    y = y.index_select(0, places)
    return y if bias is None else y + bias.to(y.dtype)


def block_filters(conv: torch.nn.Conv1d, max_bytes: int) -> list[torch.Tensor]:
    """The matrix of each group that `convolve_positions` multiplies by. They are to be computed anew when the
    weights change.

    The list is empty where they would take more than `max_bytes`.
    """
    weight = conv.weight
    inputs = conv.in_channels // conv.groups
    kernel = conv.kernel_size[0]
    size = FRAMES_PER_ROW * conv.out_channels * (FRAMES_PER_ROW + kernel - 1) * inputs * weight.itemsize
    return [_block_filter(part) for part in weight.chunk(conv.groups)] if size <= max_bytes else []


class _Correlation(torch.autograd.Function):
    """conv1d(padding=kernel // 2) without its last frame, (time, channels) -> (time, channels), as matrix
    products.

    On a CPU this is several times as fast as torch's grouped convolution, most of all in the backward pass.
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
            block = g.reshape(-1, FRAMES_PER_ROW * outputs).T @ _windows(a, before, kernel)
            block = block.view(FRAMES_PER_ROW, outputs, FRAMES_PER_ROW + kernel - 1, inputs)
            frame, output, tap, one = block.stride()
            diagonals = block.as_strided(
                (FRAMES_PER_ROW, outputs, kernel, inputs), (frame + tap, output, tap, one)
            )
            to_weight.append(diagonals.sum(0).transpose(1, 2))
        return torch.cat(to_input, 1), torch.cat(to_weight), None


def _correlate(x: torch.Tensor, weight: torch.Tensor, before: int) -> torch.Tensor:
    """y[t] = sum over taps of weight[:, :, tap] @ x[t + tap - before], (time, inputs) -> (time, outputs)."""
    return _multiply(x, _block_filter(weight), before, weight.shape[2])


def _multiply(x: torch.Tensor, matrix: torch.Tensor, before: int, kernel: int) -> torch.Tensor:
    """(time, inputs) -> (time, outputs) by a matrix of `_block_filter`."""
    return (_windows(x, before, kernel) @ matrix.T).view(-1, len(matrix) // FRAMES_PER_ROW)


def _block_filter(weight: torch.Tensor) -> torch.Tensor:
    """The matrix that computes FRAMES_PER_ROW frames from the window that they see.

    (outputs, inputs, kernel) -> (FRAMES_PER_ROW * outputs, (FRAMES_PER_ROW + kernel - 1) * inputs). Its rows
    are the filters of each of the frames, every one shifted by a frame against the one before.
    """
    outputs, inputs, kernel = weight.shape
    padded = weight.new_zeros(outputs, kernel + 2 * (FRAMES_PER_ROW - 1), inputs)
    padded[:, FRAMES_PER_ROW - 1 : FRAMES_PER_ROW - 1 + kernel] = weight.transpose(1, 2)
    width = (FRAMES_PER_ROW + kernel - 1) * inputs
    strides = (inputs, padded.stride(0), 1)
    return padded.as_strided((FRAMES_PER_ROW, outputs, width), strides).flip(0).reshape(-1, width)


def _windows(x: torch.Tensor, before: int, kernel: int) -> torch.Tensor:
    """What each FRAMES_PER_ROW frames are computed from, a view of a copy.

    (time, inputs) -> (time / FRAMES_PER_ROW, (FRAMES_PER_ROW + kernel - 1) * inputs); the windows start
    `before` frames early.
    """
    time, inputs = x.shape
    padded = F.pad(x, (0, 0, before, kernel + FRAMES_PER_ROW - before))
    rows, width = time // FRAMES_PER_ROW, (FRAMES_PER_ROW + kernel - 1) * inputs
    return padded.as_strided((rows, width), (FRAMES_PER_ROW * inputs, 1))
