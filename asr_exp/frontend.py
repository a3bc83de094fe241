"""The convolutional front end over a batch laid end to end: no padding, matrix products, time before channels.

Each utterance starts at a multiple of the total stride, so its frames are those it has alone; frames that see two
utterances lie between them and are left out.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def extract_features(layers: Sequence[Any], audio: torch.Tensor, lengths: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
    """Features of the frames at `positions` (see `frame_positions`), shape (frames, channels).

    layers: transformers' `feature_extractor.conv_layers`: all with a layer norm, or the first with a group norm, the others without.
    audio: (batch, samples), normalised; lengths: samples of each row.
    """
    stride = _total_stride(layers)
    clips = [F.pad(row[:n], (0, -n % stride)) for row, n in zip(audio, lengths, strict=True)]
    flat = torch.cat([*clips, audio.new_zeros(2 * stride)])  # zeros at the end, so that no window of the last utterance is cut
    x = flat[:, None]
    for layer in layers:
        if isinstance(getattr(layer, "layer_norm", None), torch.nn.GroupNorm):
            x = _grouped(layer, flat, lengths, stride)
        elif getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled():
            x = checkpoint(_convolved, layer, x, use_reentrant=False)  # type: ignore[assignment]
        else:
            x = _convolved(layer, x)
    return x.index_select(0, positions)


def frame_positions(layers: Sequence[Any], lengths: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """Where the frames of utterances of so many samples come out, one utterance after the other, shape (sum of frames,)."""
    stride, start, found = _total_stride(layers), 0, []
    for samples, count in zip(lengths, frames, strict=True):
        found.append(torch.arange(start, start + count))
        start += -(-samples // stride)
    return torch.cat(found)


def _total_stride(layers: Sequence[Any]) -> int:
    return math.prod(layer.conv.stride[0] for layer in layers)


def _convolved(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """conv -> layer norm -> activation; (time, channels) -> (time, channels)."""
    y = _convolve(x, layer.conv.weight, layer.conv.bias, layer.conv.stride[0])
    return layer.activation(layer.layer_norm(y) if hasattr(layer, "layer_norm") else y)


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> torch.Tensor:
    """A strided convolution as a sum of matrix products, one for each stride's worth of taps; their inputs are views of x."""
    outputs, channels, kernel = weight.shape
    if channels == 1:
        return F.linear(x[:, 0].unfold(0, kernel, stride), weight[:, 0], bias)
    hops = x[: len(x) // stride * stride].view(-1, stride * channels)
    count = len(hops) - (kernel - 1) // stride
    y = None
    for number, first in enumerate(range(0, kernel, stride)):
        taps = weight[:, :, first : first + stride].transpose(1, 2).reshape(outputs, -1)
        rows = hops[number : number + count, : taps.shape[1]]
        y = F.linear(rows, taps, bias) if y is None else torch.addmm(y, rows, taps.T)
    return y  # type: ignore[return-value]


def _grouped(layer: Any, flat: torch.Tensor, lengths: Sequence[int], aligned: int) -> torch.Tensor:
    """The first layer where its norm runs over time (a group is a channel): each utterance normalised by its own frames.

    Mean and variance of a linear map of the samples follow from the samples' mean and covariance, so the norm becomes part
    of the weights, without a pass over what the layer puts out.
    """
    norm, (kernel,), (stride,) = layer.layer_norm, layer.conv.kernel_size, layer.conv.stride
    weight, made, start = layer.conv.weight[:, 0].double(), [], 0
    for samples in lengths:
        end = start + samples + -samples % aligned
        heard = flat[start : start + samples].unfold(0, kernel, stride).double()
        mean = heard.mean(0)
        covariance = (heard - mean).T @ (heard - mean) / len(heard)
        factor = norm.weight.double() / torch.sqrt(((weight @ covariance) * weight).sum(1) + norm.eps)
        bias = norm.bias.double() - weight @ mean * factor  # a bias of the convolution's own would cancel
        windows = flat[start : end + kernel - stride].unfold(0, kernel, stride)
        made.append(layer.activation(F.linear(windows, (weight * factor[:, None]).to(flat.dtype), bias.to(flat.dtype))))
        start = end
    return torch.cat([*made, made[-1].new_zeros(2 * aligned // stride, made[-1].shape[1])])
