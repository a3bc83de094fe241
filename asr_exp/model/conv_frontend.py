"""The convolutional front end over a batch laid end to end: no padding, matrix products, time before
channels.

Each utterance starts at a multiple of the total stride, so its frames are those it has alone; frames that see
two utterances lie between them and are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from asr_exp.data.audio import Samples

BLOCK = 2**20  # samples looked at together
# frames; an utterance is heard in pieces of so many, where no gradient is wanted: what layers put out stays
# in the CPU's cache
PIECE = 64
# frames; audio is filled up to a multiple of so many, so that matrix products come in few shapes (see
# `packed.GRAIN`)
GRAIN = 8


@dataclass(frozen=True)
class SignalStatistics:
    """Of a recording what the norms over time need, for pieces of it to be normalised as the whole is.

    mean, variance: of the samples, full scale at 1. window_mean, (kernel,), window_covariance, (kernel,
    kernel): of what the first convolution sees of them at each of its steps. All in double precision.
    """

    mean: float
    variance: float
    window_mean: torch.Tensor
    window_covariance: torch.Tensor

    @classmethod
    def of(cls, samples: Samples, kernel: int, stride: int) -> "SignalStatistics":
        """Those of a recording, which is read once, a block after the other."""
        count = (len(samples) - kernel) // stride + 1
        total = 0.0
        square = 0.0
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
        return cls(
            mean,
            max(0.0, square / len(samples) - mean**2),
            torch.from_numpy(window_mean),
            torch.from_numpy(covariance),
        )

    def normalised(self, deviation: float) -> "SignalStatistics":
        """Those of the recording once its mean is taken away and it is divided by `deviation`."""
        squared = deviation**2
        return SignalStatistics(
            0.0,
            self.variance / squared,
            (self.window_mean - self.mean) / deviation,
            self.window_covariance / squared,
        )


# of a convolution, (outputs, taps * channels): of all its kernel, or of each stride's worth of it
ConvWeights = list[torch.Tensor]


def extract_features(
    layers: Sequence[Any],
    audio: torch.Tensor,
    lengths: Sequence[int],
    positions: torch.Tensor,
    whole: SignalStatistics | None = None,
    taps: Sequence[ConvWeights] | None = None,
) -> torch.Tensor:
    """Features of the frames at `positions` (see `frame_positions`), shape (frames, channels).

    layers: transformers' `feature_extractor.conv_layers`: all with a layer norm, or the first with a group
    norm, the others without. audio: (batch, samples), normalised; lengths: samples of each row. whole: of the
    recording, as normalised, that the rows are pieces of, where they are. taps: `conv_weights(layers)`, if at
    hand.
    """
    taps = taps or conv_weights(layers)
    stride = _total_stride(layers)
    clips = [F.pad(row[:n], (0, -n % stride)) for row, n in zip(audio, lengths, strict=True)]
    fill = -sum(map(len, clips)) % (GRAIN * stride)
    end, more = sum(map(len, clips)) + fill, _reach(layers)
    # zeros at the end, so that no window of the last utterance is cut
    flat = torch.cat([*clips, audio.new_zeros(fill + more * stride)])
    starts = np.cumsum([0, *map(len, clips)])[:-1].tolist()
    norms = (
        [_folded(layers[0], flat[a : a + n], whole) for a, n in zip(starts, lengths, strict=True)]
        if _grouped(layers[0])
        else []
    )
    if torch.is_grad_enabled() or audio.device.type != "cpu" or len(lengths) > 1:
        return _layered(layers, taps, flat, starts, norms).index_select(0, positions)
    pieces = [
        flat[first : min(first + PIECE * stride, end) + more * stride]
        for first in range(0, end, PIECE * stride)
    ]
    made = torch.cat(
        [_layered(layers, taps, piece, [0], norms)[: len(piece) // stride - more] for piece in pieces]
    )
    return made if len(made) == len(positions) else made.index_select(0, positions)


def _layered(
    layers: Sequence[Any],
    taps: Sequence[ConvWeights],
    flat: torch.Tensor,
    starts: Sequence[int],
    norms: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """All layers over utterances that start at `starts`, (samples,) -> (frames, channels); norms: of a
    grouped first layer, one each.
    """
    x = flat[:, None]
    for layer, own in zip(layers, taps, strict=True):
        if _grouped(layer):
            x = _normed(layer, flat, starts, norms)
        elif getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled():
            x = checkpoint(_convolved, layer, x, own, use_reentrant=False)  # type: ignore[assignment]
        else:
            x = _convolved(layer, x, own)
    return x


def frame_positions(layers: Sequence[Any], lengths: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """Where the frames of utterances of so many samples come out, one utterance after the other, shape (sum
    of frames,).
    """
    stride = _total_stride(layers)
    start = 0
    found = []
    for samples, count in zip(lengths, frames, strict=True):
        found.append(torch.arange(start, start + count))
        start += -(-samples // stride)
    return torch.cat(found)


def _total_stride(layers: Sequence[Any]) -> int:
    return math.prod(layer.conv.stride[0] for layer in layers)


def _reach(layers: Sequence[Any]) -> int:
    """How many total strides more than its own a frame hears; of kernels, `_convolve` takes whole strides."""
    heard, stride = 1, 1
    for layer in layers:
        (kernel,), (hop,) = layer.conv.kernel_size, layer.conv.stride
        heard += (-(-kernel // hop) * hop - 1) * stride
        stride *= hop
    return max(1, -(-(heard - stride) // stride))


def conv_weights(layers: Sequence[Any]) -> list[ConvWeights]:
    """The weights of each layer as `_convolve` multiplies by them; to be made anew when they change.

    A gradient keeps what was multiplied: then a stride's worth at a time, which are views of the input. A GPU
    has not the room either.
    """
    made = []
    for layer in layers:
        weight, stride = layer.conv.weight, layer.conv.stride[0]
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        whole = weight.shape[1] == 1 or weight.device.type == "cpu" and not torch.is_grad_enabled()
        made.append(
            [
                some.transpose(1, 2).flatten(1)
                for some in weight.split(weight.shape[2] if whole else stride, 2)
            ]
        )
    return made


def _convolved(layer: Any, x: torch.Tensor, taps: ConvWeights) -> torch.Tensor:
    """conv -> layer norm -> activation; (time, channels) -> (time, channels)."""
    y = _convolve(x, taps, layer.conv.bias, layer.conv.kernel_size[0], layer.conv.stride[0])
    return layer.activation(layer.layer_norm(y) if hasattr(layer, "layer_norm") else y)


def _convolve(
    x: torch.Tensor, taps: ConvWeights, bias: torch.Tensor | None, kernel: int, stride: int
) -> torch.Tensor:
    """A strided convolution, (time, channels) -> (time, channels): a matrix product, or a sum of them whose
    inputs are views of x.
    """
    channels, x = x.shape[1], x.to(taps[0].dtype)
    if taps[0].shape[1] == kernel * channels:
        return F.linear(x.flatten().unfold(0, kernel * channels, stride * channels), taps[0], bias)
    hops = x[: len(x) // stride * stride].view(-1, stride * channels)
    count = len(hops) - (kernel - 1) // stride
    y = F.linear(hops[:count], taps[0], bias)
    for number, some in enumerate(taps[1:], 1):
        y.addmm_(hops[number : number + count, : some.shape[1]], some.T)  # in place: no copy of y
    return y


def _grouped(layer: Any) -> bool:
    """Whether a layer's norm runs over time: a group is a channel."""
    return isinstance(getattr(layer, "layer_norm", None), torch.nn.GroupNorm)


def _folded(
    layer: Any, clip: torch.Tensor, whole: SignalStatistics | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a grouped first layer with the norm of an utterance, or of the whole that it is a
    piece of, in them.

    Mean and variance of a linear map of the samples follow from the samples' mean and covariance, so the norm
    needs no pass over what the layer puts out.
    """
    norm, weight = layer.layer_norm, layer.conv.weight[:, 0].double()
    if whole:
        mean, covariance = whole.window_mean.to(clip.device), whole.window_covariance.to(clip.device)
    else:
        heard = clip.unfold(0, layer.conv.kernel_size[0], layer.conv.stride[0]).double()
        mean = heard.mean(0)
        covariance = (heard - mean).T @ (heard - mean) / len(heard)
    factor = norm.weight.double() / torch.sqrt(((weight @ covariance) * weight).sum(1) + norm.eps)
    bias = norm.bias.double() - weight @ mean * factor  # a bias of the convolution's own would cancel
    return (weight * factor[:, None]).to(clip.dtype), bias.to(clip.dtype)


def _normed(
    layer: Any, flat: torch.Tensor, starts: Sequence[int], norms: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """A grouped first layer, each utterance by its own weight and bias."""
    (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
    ends = [start + kernel - stride for start in starts[1:]] + [len(flat)]
    windows = (flat[start:end].unfold(0, kernel, stride) for start, end in zip(starts, ends, strict=True))
    return torch.cat(
        [layer.activation(F.linear(some, *norm)) for some, norm in zip(windows, norms, strict=True)]
    )
