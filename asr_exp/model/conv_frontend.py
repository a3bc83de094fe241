"""The arithmetic of the convolutional front end over a batch laid end to end.

There is no padding, convolutions are matrix products, and time comes before channels. Each utterance starts
at a multiple of the total stride, so its frames are those that it has alone. Frames that see two utterances
lie between them and are left out.
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
from asr_exp.model.group_norm import NormedFilters, has_group_norm, normed_filters, run_group_norm_layer

SAMPLES_AT_ONCE = 2**20  # of a recording whose statistics are computed
# Where no gradient is needed an utterance is computed in pieces of so many frames, so that the activations of
# a layer stay in the CPU's cache.
FRAMES_AT_ONCE = 64
# Audio is filled up to a multiple of so many frames, so that matrix products come in few shapes (see
# `layout.FRAME_MULTIPLE`).
FRAME_MULTIPLE = 8


@dataclass(frozen=True)
class SignalStatistics:
    """The statistics of a recording by which its pieces are normalised as the whole recording is.

    mean, variance: of the samples, full scale at 1. window_mean, (kernel,), and window_covariance, (kernel,
    kernel): of the windows that the first convolution sees, from which the statistics of its output follow.
    All are in double precision.
    """

    mean: float
    variance: float
    window_mean: torch.Tensor
    window_covariance: torch.Tensor

    @classmethod
    def of(cls, samples: Samples, kernel: int, stride: int) -> "SignalStatistics":
        """The statistics of an int16 recording, (samples,), which is read once, block by block."""
        windows = (len(samples) - kernel) // stride + 1
        total = 0.0
        square = 0.0
        for start in range(0, len(samples), SAMPLES_AT_ONCE):
            block = samples[start : start + SAMPLES_AT_ONCE] / 32768
            total += float(block.sum())
            square += float(block @ block)
        first, second = np.zeros(kernel), np.zeros((kernel, kernel))
        steps = SAMPLES_AT_ONCE // stride
        for step in range(0, windows, steps):
            end = min(step + steps, windows)
            block = samples[step * stride : (end - 1) * stride + kernel] / 32768
            seen = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(block, kernel)[::stride])
            first, second = first + seen.sum(0), second + seen.T @ seen
        mean, window_mean = total / len(samples), first / windows
        covariance = second / windows - np.outer(window_mean, window_mean)
        return cls(
            mean,
            max(0.0, square / len(samples) - mean**2),
            torch.from_numpy(window_mean),
            torch.from_numpy(covariance),
        )

    @property
    def windows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of the windows."""
        return self.window_mean, self.window_covariance

    def normalised(self, deviation: float) -> "SignalStatistics":
        """The statistics of the recording minus its mean, divided by `deviation`."""
        squared = deviation**2
        return SignalStatistics(
            0.0,
            self.variance / squared,
            (self.window_mean - self.mean) / deviation,
            self.window_covariance / squared,
        )


# The weights of one convolution as its matrix products need them, each (outputs, taps * channels): one matrix
# of the whole kernel, or one for each stride's worth of taps.
ConvWeights = list[torch.Tensor]


def extract_features(
    layers: Sequence[Any],
    audio: torch.Tensor,
    lengths: Sequence[int],
    positions: torch.Tensor,
    recording: SignalStatistics | None = None,
    weights: Sequence[ConvWeights] | None = None,
) -> torch.Tensor:
    """The features of a batch of utterances, laid end to end.

    Args:
        layers: transformers' `feature_extractor.conv_layers`: all with a layer norm, or the first with a
            group norm and the others without one.
        audio: (batch, samples), normalised, with zeros after the end of each row.
        lengths: the number of samples of each row.
        positions: (all frames,) the places of the utterances' frames; see `frame_positions`.
        recording: the statistics, as normalised, of the recording that all rows are pieces of; None where
            each row is an utterance.
        weights: `conv_weights(layers)`, where it is kept.

    Returns:
        (all frames, channels).
    """
    weights = weights or conv_weights(layers)
    stride = _total_stride(layers)
    padded = F.pad(audio, (0, -audio.shape[1] % stride))  # of all rows at once; what is after an end is zero
    clips = [row[: n + -n % stride] for row, n in zip(padded, lengths, strict=True)]
    fill = -sum(map(len, clips)) % (FRAME_MULTIPLE * stride)
    end, more = sum(map(len, clips)) + fill, _overlap(layers)
    # zeros at the end, so that no window of the last utterance is cut
    flat = torch.cat([*clips, audio.new_zeros(fill + more * stride)])
    starts = np.cumsum([0, *map(len, clips)])[:-1].tolist()
    filters = (
        normed_filters(layers[0], flat, starts, lengths, recording.windows if recording else None, stride)
        if has_group_norm(layers[0])
        else []
    )
    if torch.is_grad_enabled() or audio.device.type != "cpu" or len(lengths) > 1:
        return _run_layers(layers, weights, flat, starts, filters).index_select(0, positions)
    pieces = [
        flat[first : min(first + FRAMES_AT_ONCE * stride, end) + more * stride]
        for first in range(0, end, FRAMES_AT_ONCE * stride)
    ]
    features = torch.cat(
        [_run_layers(layers, weights, piece, [0], filters)[: len(piece) // stride - more] for piece in pieces]
    )
    return features if len(features) == len(positions) else features.index_select(0, positions)


def _run_layers(
    layers: Sequence[Any],
    weights: Sequence[ConvWeights],
    flat: torch.Tensor,
    starts: Sequence[int],
    filters: NormedFilters,
) -> torch.Tensor:
    """All layers over utterances laid end to end.

    Args:
        layers, weights: as for `extract_features`.
        flat: (samples,) the utterances.
        starts: the first sample of each.
        filters: of each utterance, for a first layer with a group norm.

    Returns:
        (frames, channels), with frames that see two utterances.
    """
    x = flat[:, None]
    for layer, own in zip(layers, weights, strict=True):
        if has_group_norm(layer):
            x = run_group_norm_layer(layer, flat, starts, filters)
        elif getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled():
            x = checkpoint(_run_layer, layer, x, own, use_reentrant=False)  # type: ignore[assignment]
        else:
            x = _run_layer(layer, x, own)
    return x


def frame_positions(layers: Sequence[Any], lengths: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """The places of the utterances' own frames among all that the layers compute, (all frames,).

    lengths: samples of each utterance; frames: its frames.
    """
    stride = _total_stride(layers)
    start = 0
    places = []
    for samples, count in zip(lengths, frames, strict=True):
        places.append(torch.arange(start, start + count))
        start += -(-samples // stride)
    return torch.cat(places)


def _total_stride(layers: Sequence[Any]) -> int:
    return math.prod(layer.conv.stride[0] for layer in layers)


def _overlap(layers: Sequence[Any]) -> int:
    """How many total strides of samples a frame sees beyond its own; a kernel counts as whole strides, as
    `_convolve` takes it.
    """
    field, stride = 1, 1
    for layer in layers:
        (kernel,), (hop,) = layer.conv.kernel_size, layer.conv.stride
        field += (-(-kernel // hop) * hop - 1) * stride
        stride *= hop
    return max(1, -(-(field - stride) // stride))


def conv_weights(layers: Sequence[Any]) -> list[ConvWeights]:
    """The weights of each layer as `_convolve` multiplies by them. They are to be computed anew when a weight
    changes.

    The whole kernel is one matrix where nothing has to be kept for a gradient. For a gradient, autograd keeps
    the input of each product: then a stride's worth of taps at a time, whose inputs are views. On a GPU the
    input of a whole kernel would take too much memory, too.
    """
    weights = []
    for layer in layers:
        weight, stride = layer.conv.weight, layer.conv.stride[0]
        if torch.is_autocast_enabled(weight.device.type):
            weight = weight.to(torch.get_autocast_dtype(weight.device.type))
        whole = weight.shape[1] == 1 or weight.device.type == "cpu" and not torch.is_grad_enabled()
        taps = weight.shape[2] if whole else stride
        weights.append([part.transpose(1, 2).flatten(1) for part in weight.split(taps, 2)])
    return weights


def _run_layer(layer: Any, x: torch.Tensor, weights: ConvWeights) -> torch.Tensor:
    """conv -> layer norm -> activation; (time, channels) -> (time, channels)."""
    y = _convolve(x, weights, layer.conv.bias, layer.conv.kernel_size[0], layer.conv.stride[0])
    return layer.activation(layer.layer_norm(y) if hasattr(layer, "layer_norm") else y)


def _convolve(
    x: torch.Tensor, weights: ConvWeights, bias: torch.Tensor | None, kernel: int, stride: int
) -> torch.Tensor:
    """A strided convolution as one matrix product, or as a sum of several whose inputs are views of x.

    Args:
        x: (time, channels).
        weights: of the layer, from `conv_weights`.
        bias: (outputs,), or None.
        kernel, stride: of the convolution, in steps of x.

    Returns:
        (time, outputs).
    """
    channels, x = x.shape[1], x.to(weights[0].dtype)
    if weights[0].shape[1] == kernel * channels:
        return F.linear(x.flatten().unfold(0, kernel * channels, stride * channels), weights[0], bias)
    hops = x[: len(x) // stride * stride].view(-1, stride * channels)
    count = len(hops) - (kernel - 1) // stride
    y = F.linear(hops[:count], weights[0], bias)
    for number, part in enumerate(weights[1:], 1):
        y.addmm_(hops[number : number + count, : part.shape[1]], part.T)  # in place: no copy of y
    return y
