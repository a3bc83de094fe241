"""Transformer encoders over a batch without padding: its utterances laid end to end, (1, all their frames,
channels).

Linear layers, norms and dropout do not care where an utterance ends. What does, the positional convolution
and attention, is replaced on one instance of the network; the names of its weights stay those of
transformers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from asr_exp.model.dropout import dropout
from asr_exp.model.positional_conv import convolve_positions, spread_filters
from asr_exp.runtime.threads import PerThread

# Families whose encoders, so fed, give each utterance what it has alone (tests/test_padding.py).
FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# A batch is filled up to a multiple of so many frames: products of matrices then come in few shapes. What
# oneDNN makes for a shape serves again, where it would else be made anew at every step: a fifth of the time
# of a small network.
GRAIN = 16
# Bytes: what follows from the weights of the positional convolution alone is kept while scoring if it takes
# no more. Made anew for each pass, in two threads, it took 20 MiB more at the peak (small model).
KEPT = 2**24
LEAST = 64  # queries; fewer at once take longer than all
# scores of attention that are made at once where no gradient is wanted, for them to stay in the CPU's cache
BLOCK = 2**20
# Pairs of frames: attention over fewer takes less time than calling for it, so utterances of near lengths are
# padded to share a call.
PAIRS = {"cpu": 2**13, "cuda": 2**17}


def can_pack(config: Any) -> bool:
    """Whether a backbone can be fed packed. A batch norm on positions (some HuBERTs) mixes utterances, so it
    cannot.
    """
    return config.model_type in FAMILIES and not getattr(config, "conv_pos_batch_norm", False)


@dataclass(frozen=True)
class LengthGroup:
    """Utterances that attend in one call. frames: theirs among all; inside: where these lie when padded, None
    if all are as long.
    """

    frames: slice
    rows: int
    longest: int
    inside: torch.Tensor | None = None
    mask: torch.Tensor | None = None  # (rows, 1, 1, longest), minus infinity for padding, else 0


class Layout:
    """Where the frames of a batch lie. frames: of each utterance; gap: zeros around each for the positional
    convolution.

    row, cell, spaced, positions: (all frames + tail,) the utterance of a frame, its place in a padded (batch,
    frames), its place among gaps, and its place in what the front end puts out, as given. offsets: (batch +
    1,) where each utterance starts. tail: frames that fill up; they say 0 for each place, and nothing is made
    of them.
    """

    def __init__(self, frames: Sequence[int], gap: int, positions: torch.Tensor, device: torch.device):
        counts = torch.tensor(frames)
        row = torch.arange(len(frames)).repeat_interleave(counts)
        place, offsets = torch.arange(len(row)), F.pad(counts.cumsum(0), (1, 0))
        self.frames = frames
        self.longest = max(frames)
        self.count = len(row)
        self.tail = -len(row) % GRAIN
        self.spaced_length = self.count + self.tail + (len(frames) + 1) * gap
        places = [row, place - offsets[row] + row * self.longest, place + (row + 1) * gap, positions]
        parts = [*(F.pad(one, (0, self.tail)) for one in places), offsets]
        together = torch.cat(parts)
        together = (together.pin_memory() if device.type == "cuda" else together).to(
            device, non_blocking=True
        )
        self.row, self.cell, self.spaced, self.positions, self.offsets = together.split(
            [len(p) for p in parts]
        )
        self.groups = [self._group(first, last) for first, last in _runs(frames, PAIRS[device.type])]

    def _group(self, first: int, last: int) -> LengthGroup:
        lengths, start = self.frames[first:last], sum(self.frames[:first])
        span = slice(start, start + sum(lengths))
        rows = last - first
        longest = max(lengths)
        if min(lengths) == longest:
            return LengthGroup(span, rows, longest)
        inside = self.cell[span] - self.row[span] * self.longest + (self.row[span] - first) * longest
        mask = torch.full((rows * longest,), -math.inf, device=inside.device).index_fill_(0, inside, 0.0)
        return LengthGroup(span, rows, longest, inside, mask.view(rows, 1, 1, longest))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, frames, ...) -> (all frames + tail, ...)."""
        return padded.flatten(0, 1).index_select(0, self.cell)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(all frames + tail, ...) -> (batch, frames, ...), zeros where an utterance is over."""
        cells = packed.new_zeros(len(self.frames) * self.longest, *packed.shape[1:])
        return cells.index_copy(0, self.cell[: self.count], packed[: self.count]).unflatten(
            0, (len(self.frames), self.longest)
        )


def _runs(frames: Sequence[int], pairs: int) -> Iterator[tuple[int, int]]:
    """(first, last) of runs of utterances whose lengths, squared, differ by `pairs` at most."""
    first = 0
    for i in range(1, len(frames) + 1):
        run = frames[first : i + 1]
        if i == len(frames) or max(run) ** 2 - min(run) ** 2 > pairs:
            yield first, i
            first = i


class PackedEncoder:
    """Takes over attention and positional convolution of a backbone; `layout` says how the batch at hand
    lies.
    """

    layout = PerThread()  # a Layout

    def __init__(self, backbone: Any):
        self.config = backbone.config
        self.gap = self.config.num_conv_pos_embeddings
        self._spread: list[torch.Tensor] = []  # see `cache_filters`
        self._position_encoder = positions = backbone.encoder.pos_conv_embed
        positions.forward = partial(self._positions, positions)
        attend = self._biased if self.config.model_type == "wavlm" else self._plain
        for layer in backbone.encoder.layers:
            layer.attention.forward = partial(attend, layer.attention)

    def cache_filters(self, settled: bool) -> None:
        """Weights will stay as they are, in fp32 and on a CPU: what follows from them is made once. Or: they
        may change again.
        """
        self._spread = spread_filters(self._position_encoder.conv, KEPT) if settled else []

    def _positions(self, module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        layout = self.layout
        made = convolve_positions(
            hidden_states[0], module.conv, layout.spaced, layout.spaced_length, self._spread
        )
        return module.activation(made)[None]

    def _plain(self, module: Any, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return self._attended(module, hidden_states, None), None

    def _biased(
        self, module: Any, hidden_states: torch.Tensor, position_bias: torch.Tensor | None = None, **_: Any
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """WavLM's attention: a bias for each distance, gated by the frame that attends (Chen et al. 2022)."""
        longest, heads = self.layout.longest, module.num_heads
        bias = module.compute_bias(longest, longest) if position_bias is None else position_bias
        projected = module.gru_rel_pos_linear(hidden_states[0].unflatten(1, (heads, -1)))
        a, b = torch.sigmoid(projected.unflatten(2, (2, 4)).sum(-1)).unbind(-1)
        gate = a * (b * module.gru_rel_pos_const[0, :, 0, 0] - 1.0) + 2.0

        def gated(group: LengthGroup) -> torch.Tensor:
            return _heads(gate, group, heads) * bias[:, : group.longest, : group.longest]

        return self._attended(module, hidden_states, gated), None, bias

    def _attended(
        self, module: Any, hidden_states: torch.Tensor, bias: Callable[[LengthGroup], torch.Tensor] | None
    ) -> torch.Tensor:
        """Each utterance's attention over itself, (1, frames, channels) -> (1, frames, channels)."""
        hidden = hidden_states[0]
        query = module.q_proj(hidden) * module.scaling
        key = module.k_proj(hidden)
        value = module.v_proj(hidden)
        rate = module.dropout if module.training else 0.0
        if self.config._attn_implementation == "sdpa" and bias is None:
            return self._put_out(module, _fused(query, key, value, module.num_heads, self.layout, rate))
        made = []
        for group in self.layout.groups:
            q, k, v = (_heads(x, group, module.num_heads) for x in (query, key, value))
            heard = (
                _eager(q, k, v, None if bias is None else bias(group), group.mask, rate)
                .transpose(1, 2)
                .flatten(2)
                .flatten(0, 1)
            )
            made.append(heard if group.inside is None else heard.index_select(0, group.inside))
        return self._put_out(module, torch.cat(made))

    def _put_out(self, module: Any, heard: torch.Tensor) -> torch.Tensor:
        return module.out_proj(F.pad(heard, (0, 0, 0, self.layout.tail)))[None]


def _heads(packed: torch.Tensor, group: LengthGroup, heads: int) -> torch.Tensor:
    """(all frames, channels) -> the group's (rows, heads, longest, channels of a head)."""
    x = packed[group.frames]
    if group.inside is not None:
        x = x.new_zeros(group.rows * group.longest, x.shape[1]).index_copy(0, group.inside, x)
    return x.view(group.rows, group.longest, heads, -1).transpose(1, 2)


def _eager(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    rate: float,
) -> torch.Tensor:
    """Attention in plain operations, on a CPU the fastest; the queries are scaled already."""
    rows, heads, frames, _ = query.shape
    if rows * heads * frames * frames > BLOCK and not torch.is_grad_enabled() and query.device.type == "cpu":
        some = query.split(max(LEAST, BLOCK // (rows * heads * frames)), 2)
        biases = [bias] * len(some) if bias is None else bias.split(some[0].shape[2], 2)
        return torch.cat([_heard(q, key, value, b, mask, rate) for q, b in zip(some, biases, strict=True)], 2)
    return _heard(query, key, value, bias, mask, rate)


def _heard(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    rate: float,
) -> torch.Tensor:
    scores = query @ key.transpose(2, 3)
    for added in (bias, mask):
        if added is not None:
            scores += added.to(scores.dtype)
    return dropout(torch.softmax(scores, -1), rate, training=True) @ value


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, layout: Layout, rate: float
) -> torch.Tensor:
    """The same over all utterances in one call, (all frames + tail, channels) -> (all frames, channels): on a
    GPU a flash kernel's.
    """
    shortest = min(layout.frames)  # both ends are known here: the kernel need not ask the GPU for them

    def jagged(x: torch.Tensor) -> torch.Tensor:
        lengths: dict[str, Any] = {
            "offsets": layout.offsets,
            "min_seqlen": shortest,
            "max_seqlen": layout.longest,
        }
        return torch.nested.nested_tensor_from_jagged(
            x[: layout.count].unflatten(1, (heads, -1)), **lengths
        ).transpose(1, 2)

    heard = F.scaled_dot_product_attention(
        jagged(query), jagged(key), jagged(value), dropout_p=rate, scale=1.0
    )
    return heard.transpose(1, 2).values().flatten(1)
