"""The convolutional front end over a batch laid end to end: no padding, matrix products, time before channels.

Each utterance starts at a multiple of the total stride, so its frames are those it has alone; frames that see two
utterances lie between them and are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from asr_exp.data.clips import Samples

BLOCK = 2**20  # samples looked at together
GRAIN = 8  # frames; audio is filled up to a multiple of so many, so that matrix products come in few shapes (see `packed.GRAIN`)


@dataclass(frozen=True)
class Moments:
    """Of a recording what the norms over time need, for pieces of it to be normalised as the whole is.

    mean, variance: of the samples, full scale at 1. window_mean, (kernel,), window_covariance, (kernel, kernel): of what the first
    convolution sees of them at each of its steps. All in double precision.
    """

    mean: float
    variance: float
    window_mean: torch.Tensor
    window_covariance: torch.Tensor

    @classmethod
    def of(cls, samples: Samples, kernel: int, stride: int) -> "Moments":
        """Those of a recording, which is read once, a block after the other."""
        count, total, square = (len(samples) - kernel) // stride + 1, 0.0, 0.0
        first, second = np.zeros(kernel), np.zeros((kernel, kernel))
        for start in range(0, len(samples), BLOCK):
            piece = samples[start : start + BLOCK] / 32768
            total, square = total + float(piece.sum()), square + float(piece @ piece)
        steps = BLOCK // stride
        for step in range(0, count, steps):
            end = min(step + steps, count)
            piece = samples[step * stride : (end - 1) * stride + kernel] / 32768
            seen = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(piece, kernel)[::stride])
            first, second = first + seen.sum(0), second + seen.T @ seen
        mean, window_mean = total / len(samples), first / count
        covariance = second / count - np.outer(window_mean, window_mean)
        return cls(mean, max(0.0, square / len(samples) - mean**2), torch.from_numpy(window_mean), torch.from_numpy(covariance))

    def normalised(self, deviation: float) -> "Moments":
        """Those of the recording once its mean is taken away and it is divided by `deviation`."""
        squared = deviation**2
        return Moments(0.0, self.variance / squared, (self.window_mean - self.mean) / deviation, self.window_covariance / squared)


Taps = list[torch.Tensor]  # of a convolution, (outputs, stride * channels) for each stride's worth of its kernel


def extract_features(layers: Sequence[Any], audio: torch.Tensor, lengths: Sequence[int], positions: torch.Tensor,
                     whole: Moments | None = None, taps: Sequence[Taps] | None = None) -> torch.Tensor:
    """Features of the frames at `positions` (see `frame_positions`), shape (frames, channels).

    layers: transformers' `feature_extractor.conv_layers`: all with a layer norm, or the first with a group norm, the others without.
    audio: (batch, samples), normalised; lengths: samples of each row.
    whole: of the recording, as normalised, that the rows are pieces of, where they are. taps: `taps_of(layers)`, if at hand.
    """
    taps = taps or taps_of(layers)
    stride = _total_stride(layers)
    clips = [F.pad(row[:n], (0, -n % stride)) for row, n in zip(audio, lengths, strict=True)]
    fill = -sum(map(len, clips)) % (GRAIN * stride)
    flat = torch.cat([*clips, audio.new_zeros(fill + 2 * stride)])  # zeros at the end, so that no window of the last utterance is cut
    x = flat[:, None]
    for layer, own in zip(layers, taps, strict=True):
        if isinstance(getattr(layer, "layer_norm", None), torch.nn.GroupNorm):
            x = _grouped(layer, flat, lengths, stride, whole)
        elif getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled():
            x = checkpoint(_convolved, layer, x, own, use_reentrant=False)  # type: ignore[assignment]
        else:
            x = _convolved(layer, x, own)
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


def taps_of(layers: Sequence[Any]) -> list[Taps]:
    """The weights of each layer as `_convolve` multiplies by them; to be made anew when they change."""
    made = []
    for layer in layers:
        weight, stride = layer.conv.weight, layer.conv.stride[0]
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        firsts = range(0, weight.shape[2], stride) if weight.shape[1] > 1 else ()
        made.append([weight[:, :, first : first + stride].transpose(1, 2).flatten(1) for first in firsts] or [weight[:, 0]])
    return made


def _convolved(layer: Any, x: torch.Tensor, taps: Taps) -> torch.Tensor:
    """conv -> layer norm -> activation; (time, channels) -> (time, channels)."""
    y = _convolve(x, taps, layer.conv.bias, layer.conv.kernel_size[0], layer.conv.stride[0])
    return layer.activation(layer.layer_norm(y) if hasattr(layer, "layer_norm") else y)


def _convolve(x: torch.Tensor, taps: Taps, bias: torch.Tensor | None, kernel: int, stride: int) -> torch.Tensor:
    """A strided convolution as a sum of matrix products, one for each stride's worth of taps; their inputs are views of x."""
    channels = x.shape[1]
    if channels == 1:
        return F.linear(x[:, 0].unfold(0, kernel, stride), taps[0], bias)
    hops = x[: len(x) // stride * stride].view(-1, stride * channels)
    count = len(hops) - (kernel - 1) // stride
    y = None
    for number, some in enumerate(taps):
        rows = hops[number : number + count, : some.shape[1]]
        y = F.linear(rows, some, bias) if y is None else torch.addmm(y, rows, some.T)
    return y  # type: ignore[return-value]


def _grouped(layer: Any, flat: torch.Tensor, lengths: Sequence[int], aligned: int, whole: Moments | None) -> torch.Tensor:
    """The first layer where its norm runs over time (a group is a channel): each utterance normalised by its own frames, or by
    those of the whole it is a piece of.

    Mean and variance of a linear map of the samples follow from the samples' mean and covariance, so the norm becomes part
    of the weights, without a pass over what the layer puts out.
    """
    norm, (kernel,), (stride,) = layer.layer_norm, layer.conv.kernel_size, layer.conv.stride
    weight, made, start = layer.conv.weight[:, 0].double(), [], 0
    for samples in lengths:
        end = start + samples + -samples % aligned
        if whole:
            mean, covariance = whole.window_mean.to(flat.device), whole.window_covariance.to(flat.device)
        else:
            heard = flat[start : start + samples].unfold(0, kernel, stride).double()
            mean = heard.mean(0)
            covariance = (heard - mean).T @ (heard - mean) / len(heard)
        factor = norm.weight.double() / torch.sqrt(((weight @ covariance) * weight).sum(1) + norm.eps)
        bias = norm.bias.double() - weight @ mean * factor  # a bias of the convolution's own would cancel
        windows = flat[start : end + kernel - stride].unfold(0, kernel, stride)
        made.append(layer.activation(F.linear(windows, (weight * factor[:, None]).to(flat.dtype), bias.to(flat.dtype))))
        start = end
    return torch.cat([*made, made[-1].new_zeros((len(flat) - start) // stride, made[-1].shape[1])])
