"""The grouped convolution that encodes positions (Baevski et al. 2020), over utterances laid end to end."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

# Frames that one row of the matrix product computes. More of them save copies of the input, and multiply more
# zeros.
FRAMES_PER_ROW = 4
ROWS_ON_GPU = (4, 32)  # the least and the most of them in a product of all groups


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
    if x.device.type != "cpu":
        y = BatchedCorrelation.apply(x, weight, conv.groups, places, length)
        return y if bias is None else y + bias.to(y.dtype)
    length += -length % FRAMES_PER_ROW
    spaced = x.new_zeros(length, x.shape[1]).index_copy(0, places, x)
    if filters:
        kernel = weight.shape[2]
        groups = zip(spaced.chunk(conv.groups, 1), filters, strict=True)
        y = torch.cat([_multiply(part, matrix, kernel // 2, kernel) for part, matrix in groups], 1)
    else:
        y = _Correlation.apply(spaced, weight, conv.groups)
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


# ------------------------------------------------------------------------------------------------------------
# on a GPU: one matrix product for all groups


class BatchedCorrelation(torch.autograd.Function):
    """The convolution of `convolve_positions` without its bias, as one matrix product for all groups.

    Some frames make a row, which is computed from a copy of all that they see (`_frames_per_row`). Only the
    input and the weight are kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, groups: int, places: torch.Tensor, length: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, places)
        ctx.options = groups, length
        filters = weight.unflatten(0, (groups, -1))
        return _correlate_groups(x, filters, places, length, weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight, places = ctx.saved_tensors
        groups, length = ctx.options
        to_x = to_weight = None
        kernel = weight.shape[2]
        filters = weight.unflatten(0, (groups, -1))
        _, outputs, inputs, _ = filters.shape
        rows = _frames_per_row(length, inputs)
        if ctx.needs_input_grad[0]:
            swapped = filters.transpose(1, 2).flip(3)
            to_x = _correlate_groups(gradient, swapped, places, length, kernel - 1 - kernel // 2)
        if ctx.needs_input_grad[1]:
            by_row = _spaced_groups(gradient, groups, places, length + -length % rows, 0, 0)
            by_row = by_row.view(groups, -1, rows * outputs)
            windows = _windows_of_groups(x, groups, places, length, kernel // 2, kernel, rows)
            block = by_row.transpose(1, 2) @ windows
            block = block.view(groups, rows, outputs, rows + kernel - 1, inputs)
            to_weight = _taps(block).sum(1).transpose(2, 3).flatten(0, 1)
        return to_x, to_weight, None, None, None


def _correlate_groups(
    x: torch.Tensor, filters: torch.Tensor, places: torch.Tensor, length: int, before: int
) -> torch.Tensor:
    """y[t] = sum over taps of filter[:, :, tap] @ x[t + tap - before], in each group of channels.

    Args:
        x: (frames, groups * inputs).
        filters: (groups, outputs, inputs, kernel).
        places, length: of the frames, as for `convolve_positions`.
        before: taps that are before a frame.

    Returns:
        (frames, groups * outputs).
    """
    groups, outputs, inputs, kernel = filters.shape
    rows = _frames_per_row(length, inputs)
    matrix = filters.new_zeros(groups, rows, outputs, rows + kernel - 1, inputs)
    _taps(matrix).copy_(filters.transpose(2, 3)[:, None])
    windows = _windows_of_groups(x, groups, places, length, before, kernel, rows)
    y = windows @ matrix.flatten(3).flatten(1, 2).transpose(1, 2)
    return y.view(groups, -1, outputs).index_select(1, places).transpose(0, 1).flatten(1)


def _taps(matrix: torch.Tensor) -> torch.Tensor:
    """Where the taps of each frame of a row stand in the matrix of a group: one place further than those of
    the frame before.

    (groups, rows, outputs, rows + kernel - 1, inputs) -> (groups, rows, outputs, kernel, inputs), a view.
    """
    groups, rows, outputs, width, inputs = matrix.shape
    group, frame, output, tap, one = matrix.stride()
    shape = (groups, rows, outputs, width - rows + 1, inputs)
    return matrix.as_strided(shape, (group, frame + tap, output, tap, one))


def _frames_per_row(length: int, inputs: int) -> int:
    """As many as make the copies of the input about as large as the matrices of the filters, and so the sum
    of both small.
    """
    least, most = ROWS_ON_GPU
    return min(most, max(least, 2 ** round(math.log2(max(1, length / inputs)) / 2)))


def _windows_of_groups(
    x: torch.Tensor, groups: int, places: torch.Tensor, length: int, before: int, kernel: int, rows: int
) -> torch.Tensor:
    """What each `rows` frames are computed from, (groups, length / rows, frames that they see * inputs)."""
    spaced = _spaced_groups(x, groups, places, length + -length % rows, before, kernel)
    group, frame, _ = spaced.stride()
    shape = (groups, -(-length // rows), (rows + kernel - 1) * frame)
    return spaced.as_strided(shape, (group, rows * frame, 1)).contiguous()


def _spaced_groups(
    x: torch.Tensor, groups: int, places: torch.Tensor, length: int, before: int, after: int
) -> torch.Tensor:
    """(frames, groups * inputs) -> (groups, before + length + after, inputs), zeros where no frame is."""
    parts = x.unflatten(1, (groups, -1)).transpose(0, 1)
    spaced = x.new_zeros(groups, before + length + after, parts.shape[2])
    return spaced.index_copy_(1, places + before, parts)
