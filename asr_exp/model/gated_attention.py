"""WavLM's attention on a GPU, by torch's memory-efficient kernel (Rabe and Staats 2021) with a bias.

Its bias is of the square of a length, so that no flash kernel and no packed batch can be had: utterances of
nearly equal length are padded to share a call. What is kept for the backward pass is linear in the length:
the gated bias is computed again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from asr_exp.model.layout import PaddedGroups
from asr_exp.model.varlen_attention import HEAD_MULTIPLE

KEY_MULTIPLE = 8  # elements of a bias between two of its rows: what the kernel takes
NO_OFFSETS = (None, None, None, None)  # of the kernel: each row of a batch is a sequence
NO_MASK = 0


def attend_gated(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    bias: torch.Tensor,
    padded: PaddedGroups,
    dropout_rate: float,
    scale: float,
) -> torch.Tensor:
    """softmax(scale * query @ key + gate * bias) @ value of each utterance.

    Args:
        query, key, value: (frames + tail, heads, channels of a head).
        gate: (frames + tail, heads), of the query's frame.
        bias: (heads, longest, longest), both filled up to a multiple of KEY_MULTIPLE.
        padded: of the batch's layout.
        dropout_rate: probability with which attention weights are zeroed.
        scale: factor of query @ key.

    Returns:
        The shape of `query`.
    """
    size = query.shape[2]
    if more := -size % HEAD_MULTIPLE:  # channels of zeros change no score, and give outputs of zero
        query, key, value = (F.pad(x, (0, more)) for x in (query, key, value))
    return _GatedAttention.apply(query, key, value, gate, bias, padded, dropout_rate, scale)[..., :size]


class _GatedAttention(torch.autograd.Function):
    """`attend_gated`. The gradients of padding are zero, so that those of the frames are all there is."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        gate: torch.Tensor,
        bias: torch.Tensor,
        padded: PaddedGroups,
        rate: float,
        scale: float,
    ) -> torch.Tensor:
        inputs = [x.index_select(0, padded.frames) for x in (query, key, value)]
        gates = gate.index_select(0, padded.frames)
        outs: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        terms = _terms(padded, gates, bias, query.dtype)
        for group, term in zip(_groups(padded, *inputs), terms, strict=True):
            out, *others = torch.ops.aten._efficient_attention_forward(
                *group, term, *NO_OFFSETS, rate, NO_MASK, True, scale=scale
            )
            outs.append(out)
            kept += others[:3]  # log-sum-exp, and where the random numbers start
        ctx.options = padded, rate, scale
        ctx.save_for_backward(*inputs, gates, bias, *outs, *kept)
        return _of_frames(outs, padded)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        padded, rate, scale = ctx.options
        query, key, value, gates, bias, *others = ctx.saved_tensors
        outs, kept = others[: len(padded.shapes)], others[len(padded.shapes) :]
        count = padded.count
        by_cell = gradient.new_zeros(len(padded.frames), *gradient.shape[1:])
        by_cell.index_copy_(0, padded.cells[:count], gradient[:count])
        to_bias = torch.zeros_like(bias)
        parts = []
        terms = _terms(padded, gates, bias, query.dtype)
        groups = _groups(padded, by_cell, query, key, value, gates)
        for number, (group, term) in enumerate(zip(groups, terms, strict=True)):
            *tensors, gate = group
            logsumexp, *random = kept[3 * number : 3 * number + 3]
            longest = term.shape[2]
            *to_inputs, to_term = torch.ops.aten._efficient_attention_backward(
                *tensors,
                term,
                outs[number],
                *NO_OFFSETS[:2],
                longest,
                longest,
                logsumexp,
                rate,
                *random,
                NO_MASK,
                True,
                scale=scale,
            )
            to_gate = (to_term * bias[:, :longest, :longest]).sum(-1).transpose(1, 2)
            to_bias[:, :longest, :longest] += (to_term * gate.transpose(1, 2)[..., None]).sum(0)
            parts.append([*to_inputs, to_gate.to(gate.dtype)])
        return *(_of_frames(one, padded) for one in zip(*parts, strict=True)), to_bias, None, None, None


def _of_frames(groups: Sequence[torch.Tensor], padded: PaddedGroups) -> torch.Tensor:
    """(rows, longest, ...) of each group -> (frames + tail, ...), with zeros in the tail."""
    cells = [group.flatten(0, 1) for group in groups]
    return torch.cat([*cells, cells[0].new_zeros(1, *cells[0].shape[1:])]).index_select(0, padded.cells)


def _groups(padded: PaddedGroups, *tensors: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Of each group, each tensor's (rows, longest, ...)."""
    sizes = [rows * longest for rows, longest in padded.shapes]
    for shape, *parts in zip(padded.shapes, *(x.split(sizes) for x in tensors), strict=True):
        yield [part.unflatten(0, shape) for part in parts]


def _terms(
    padded: PaddedGroups, gate: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """What is added to the scores of each group, (rows, heads, longest, longest): the gated bias, and minus
    infinity for padding.
    """
    for (own, outside), (rows, longest) in zip(
        _groups(padded, gate, padded.outside), padded.shapes, strict=True
    ):
        width = -(-longest // KEY_MULTIPLE) * KEY_MULTIPLE
        term = own.transpose(1, 2)[..., None] * bias[:, :longest, :width]
        if rows > 1:  # one alone is not padded
            term[..., :longest] += outside[:, None, None]
        term = term.to(dtype)  # under the same name, so that what it was in fp32 is gone by now
        yield term[..., :longest]
