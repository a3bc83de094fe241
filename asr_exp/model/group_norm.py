"""The group norm of a first convolution, whose groups are channels, without a pass over its output.

The mean and variance of a linear map of the samples follow from the mean and covariance of the windows that
it sees. So each utterance, or the recording that it is a piece of, has a filter of its own with the norm in
it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from asr_exp.model.layout import to_device

# Mean, (..., kernel), and covariance, (..., kernel, kernel), of windows, in double precision.
Moments = tuple[torch.Tensor, torch.Tensor]

# Weight, (outputs, kernel), and bias, (outputs,).
NormedFilter = tuple[torch.Tensor, torch.Tensor]


class BatchedFilters(NamedTuple):
    """The filters of all utterances, as a GPU takes them.

    weight: (utterances, outputs, kernel). bias: (utterances, outputs). rows: (blocks,) the utterance of each
    block of windows; no window of a block starts in another utterance. block: windows of a block.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    rows: torch.Tensor
    block: int


NormedFilters = Sequence[NormedFilter] | BatchedFilters


def has_group_norm(layer: Any) -> bool:
    """Whether the norm of a layer runs over time: a group of its group norm is a channel."""
    return isinstance(getattr(layer, "layer_norm", None), torch.nn.GroupNorm)


def normed_filters(
    layer: Any,
    flat: torch.Tensor,
    starts: Sequence[int],
    lengths: Sequence[int],
    recording: Moments | None,
    stride: int,
) -> NormedFilters:
    """The filter of each utterance.

    Args:
        layer: transformers' first convolution, with a group norm.
        flat: (samples,) the utterances laid end to end, and zeros.
        starts, lengths: the first sample of each, a multiple of `stride`, and its samples.
        recording: of the windows of the recording that all are pieces of; None where each is normalised by
            itself.
        stride: a multiple of the layer's.
    """
    kernel, hop = layer.conv.kernel_size[0], layer.conv.stride[0]
    if flat.device.type != "cpu":
        return batched_filters(layer, flat, starts, lengths, recording, stride)
    clips = [flat[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    return [_filter(layer, recording or _moments(clip, kernel, hop), clip.dtype) for clip in clips]


def batched_filters(
    layer: Any,
    flat: torch.Tensor,
    starts: Sequence[int],
    lengths: Sequence[int],
    recording: Moments | None,
    stride: int,
) -> BatchedFilters:
    """`normed_filters` in a number of kernels that does not grow with the utterances."""
    kernel, hop = layer.conv.kernel_size[0], layer.conv.stride[0]
    rows = _rows(flat, starts, kernel, hop, stride)
    if recording:
        moments = recording[0].to(flat.device)[None], recording[1].to(flat.device)[None]
        return BatchedFilters(*_filter(layer, moments, flat.dtype), torch.zeros_like(rows), stride // hop)
    moments = _batched_moments(flat, rows, starts, lengths, kernel, hop, stride)
    return BatchedFilters(*_filter(layer, moments, flat.dtype), rows, stride // hop)


def _moments(clip: torch.Tensor, kernel: int, hop: int) -> Moments:
    windows = clip.unfold(0, kernel, hop).double()
    mean = windows.mean(0)
    return mean, (windows - mean).T @ (windows - mean) / len(windows)


def _filter(layer: Any, moments: Moments, dtype: torch.dtype) -> NormedFilter:
    """Weight and bias with the norm in them, or those of several utterances."""
    norm, weight = layer.layer_norm, layer.conv.weight[:, 0].double()
    mean, covariance = moments
    factor = norm.weight.double() / torch.sqrt(((weight @ covariance) * weight).sum(-1) + norm.eps)
    # a bias of the convolution's own would cancel
    bias = norm.bias.double() - (weight @ mean if mean.ndim == 1 else mean @ weight.T) * factor
    return (weight * factor[..., None]).to(dtype), bias.to(dtype)


def _rows(flat: torch.Tensor, starts: Sequence[int], kernel: int, hop: int, stride: int) -> torch.Tensor:
    """The utterance of each block of windows, (blocks,); the zeros at the end count to the last."""
    windows = (len(flat) - kernel) // hop + 1
    blocks = -(-windows * hop // stride)
    firsts = to_device(
        torch.tensor([start // stride for start in starts[1:]], dtype=torch.int64), flat.device
    )
    return torch.bucketize(torch.arange(blocks, device=flat.device), firsts, right=True)


def _batched_moments(
    flat: torch.Tensor,
    rows: torch.Tensor,
    starts: Sequence[int],
    lengths: Sequence[int],
    kernel: int,
    hop: int,
    stride: int,
) -> Moments:
    """The moments of each utterance's windows.

    The products of a block are summed over the blocks of an utterance by a matrix product, whose order of
    summation is fixed. Samples are centred first, so that no digits cancel.

    Args:
        flat, starts, lengths, stride: as for `normed_filters`.
        rows: (blocks,) the utterance of each `stride` samples.
        kernel, hop: of the windows.
    """
    blocks, count = len(rows), len(lengths)
    numbers = [*starts, *lengths, *((n - kernel) // hop + 1 for n in lengths)]
    first, samples, windows = to_device(torch.tensor(numbers), flat.device).view(3, count)
    member = (torch.arange(count, device=flat.device)[:, None] == rows).double()
    audio = F.pad(flat, (0, max(0, blocks * stride + kernel - len(flat)))).double()
    shift = member @ audio[: blocks * stride].view(blocks, stride).sum(1) / samples
    place = torch.arange(blocks * stride // hop, device=flat.device).view(blocks, -1)
    inside = place < (first // hop + windows)[rows][:, None]
    seen = audio[: blocks * stride + kernel - hop].unfold(0, kernel, hop).view(blocks, -1, kernel)
    seen = (seen - shift[rows][:, None, None]) * inside[:, :, None]
    products = torch.cat([(seen.transpose(1, 2) @ seen).flatten(1), seen.sum(1)], 1)
    sums = member @ products / windows[:, None]
    mean = sums[:, kernel * kernel :]
    covariance = sums[:, : kernel * kernel].view(count, kernel, kernel) - mean[:, :, None] * mean[:, None]
    return mean + shift[:, None], covariance


def run_group_norm_layer(
    layer: Any, flat: torch.Tensor, starts: Sequence[int], filters: NormedFilters
) -> torch.Tensor:
    """A first layer with a group norm, (samples,) -> (time, channels): each utterance by its own filter."""
    (kernel,), (hop,) = layer.conv.kernel_size, layer.conv.stride
    if isinstance(filters, BatchedFilters):
        if len(filters.weight) == 1:
            return layer.activation(F.linear(flat.unfold(0, kernel, hop), filters.weight[0], filters.bias[0]))
        if not torch.is_grad_enabled():
            return layer.activation(_convolve_blocks(flat, filters, kernel, hop))
        # Gradients of a filter that each block had for itself would be many, and summed in half precision.
        filters = list(zip(filters.weight, filters.bias, strict=True))
    ends = [start + kernel - hop for start in starts[1:]] + [len(flat)]
    windows = (flat[start:end].unfold(0, kernel, hop) for start, end in zip(starts, ends, strict=True))
    return torch.cat(
        [layer.activation(F.linear(part, *own)) for part, own in zip(windows, filters, strict=True)]
    )


def _convolve_blocks(flat: torch.Tensor, filters: BatchedFilters, kernel: int, hop: int) -> torch.Tensor:
    """The convolution of all utterances as one batched matrix product, a block by its utterance's filter."""
    count, blocks = (len(flat) - kernel) // hop + 1, len(filters.rows)
    more = (blocks * filters.block - count) * hop
    windows = F.pad(flat, (0, more)).unfold(0, kernel, hop).unflatten(0, (blocks, -1))
    weight, bias = filters.weight, filters.bias
    if torch.is_autocast_enabled(flat.device.type):
        dtype = torch.get_autocast_dtype(flat.device.type)
        windows, weight, bias = (x.to(dtype) for x in (windows, weight, bias))
    out = torch.baddbmm(
        bias[filters.rows][:, None], windows, weight.transpose(1, 2).contiguous()[filters.rows]
    )
    return out.flatten(0, 1)[:count]
